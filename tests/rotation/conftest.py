from collections.abc import Callable

import pytest

from rotators.vault import Vault


@pytest.fixture
def killed_before_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the next publishing be the last thing that its process does; what comes after it does not happen."""
    publish = Vault.publish

    def arm() -> None:
        def publish_and_die(*args: object, **kwargs: object) -> None:
            publish(*args, **kwargs)  # type: ignore[arg-type]
            monkeypatch.setattr(Vault, "publish", publish)
            # No handler of ours catches it; the session's end rolls its transaction back, as a kill does.
            raise KeyboardInterrupt

        monkeypatch.setattr(Vault, "publish", publish_and_die)

    return arm
