"""The commands of `brski-masa`, put together. They work beside a running service: the database sees to that.

No command decides anything: it reads settings, calls `founding`, `factory`, `store` or `service`, and shows.
"""

import typer

from brski_masa.commands.keeping import device_app, owner_app
from brski_masa.commands.making import app as making_app
from brski_masa.commands.making import key_app
from brski_masa.commands.recording import auditlog_app, voucher_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The BRSKI MASA: a device maker's voucher service and factory tool (RFC 8995).\n\n"
    "Example: brski-masa init maker && brski-masa serve --config maker/masa.toml",
)
app.add_typer(making_app)
app.add_typer(device_app, name="device")
app.add_typer(owner_app, name="owner")
app.add_typer(voucher_app, name="voucher")
app.add_typer(auditlog_app, name="auditlog")
app.add_typer(key_app, name="key")
