"""The commands of `brski-masa`, put together. They work beside a running service: the database sees to that.

No command decides anything: it reads settings, calls `founding`, `factory`, `store` or `service`, and shows.
"""

from brski_common import cli
from brski_masa.commands import making
from brski_masa.commands.keeping import device_app, owner_app
from brski_masa.commands.recording import auditlog_app, voucher_app

app = cli.application(
    "The BRSKI MASA: a device maker's voucher service and factory tool (RFC 8995).", distribution="brski-masa"
)
app.command(epilog=making.INIT_EXAMPLE)(making.init)
app.command(epilog=making.SERVE_EXAMPLE)(making.serve)
app.command(epilog=making.IDEVID_EXAMPLE)(making.idevid)
app.add_typer(device_app, name="device")
app.add_typer(owner_app, name="owner")
app.add_typer(voucher_app, name="voucher")
app.add_typer(auditlog_app, name="auditlog")
app.add_typer(making.key_app, name="key")
