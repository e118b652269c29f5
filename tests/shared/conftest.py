"""What the tests of the kit share."""

import hypothesis

hypothesis.settings.register_profile("kit", deadline=None)
hypothesis.settings.load_profile("kit")
