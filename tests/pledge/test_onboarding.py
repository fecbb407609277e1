"""The whole conversation, on a stage: what a good onboarding looks like, step by step."""

from dataclasses import replace

import pytest

from brski_common import artifact
from brski_common.artifact import Format
from brski_common.certificates import Credential, public_key_info, spki, to_der
from brski_common.voucher import Assertion
from brski_pledge import actions
from brski_pledge.phases import Phase
from brski_pledge.settings import PledgeSettings
from tests.support.registrar_fake import Answer, Stage
from tests.support.world import NOW


def onboarded(**kwargs: object) -> Stage:
    stage = Stage(**kwargs)  # type: ignore[arg-type] # as Stage takes them
    stage.add()
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    return stage


@pytest.mark.req("ST-03")
def test_the_pledge_walks_from_discover_to_enrolled() -> None:
    stage = onboarded()
    assert stage.phases == [
        Phase.IDENTIFY,
        Phase.REQUEST,
        Phase.IMPRINT,
        Phase.ANCHORS,
        Phase.ATTRIBUTES,
        Phase.KEY,
        Phase.ENROLL,
        Phase.SAVE,
        Phase.CONFIRM,
    ]
