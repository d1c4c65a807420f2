"""What a laptop needs in the place of Azure: real servers where there are any, stand-ins where there are none."""
