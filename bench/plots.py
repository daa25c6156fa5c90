"""stub"""
import click
@click.command("plots")
def command() -> None:
    """Draw what is there.

    \b
    Example:  python -m bench plots
    """
