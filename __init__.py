"""EDTalk as a Blender extension; the package is the repository itself."""


def register() -> None:
    from .edtalk_blender import register as register_all

    register_all()


def unregister() -> None:
    from .edtalk_blender import unregister as unregister_all

    unregister_all()
