//! Commands that change the cluster: send one, print its outcome, wait for the nodes.

use bus_schema::Command;

use super::flags::ChangeFlags;
use super::wait::WaitFlag;
use crate::client::{Accepted, Session};
use crate::failure::Failure;
use crate::output;

/// Sends a command and prints its outcome. People first read `announcement`, unless it is empty.
pub(crate) async fn send(
    session: &mut Session,
    announcement: &str,
    command: Command,
    flags: &ChangeFlags,
) -> Result<Accepted, Failure> {
    if flags.output.format().is_text() && !announcement.is_empty() {
        output::print(&format!("{announcement}\n"))?;
    }
    let accepted = session.command(command, flags.id.command_id).await?;
    let text = accepted.to_string();
    flags
        .output
        .outcome(accepted.kind(), text.trim_end(), &accepted.value())?;
    Ok(accepted)
}

/// Sends a command, and waits until the nodes have applied it: the next line of a script relies on it.
pub(crate) async fn send_and_wait(
    session: &mut Session,
    announcement: &str,
    command: Command,
    flags: &ChangeFlags,
    wait: WaitFlag,
) -> Result<(), Failure> {
    let accepted = send(session, announcement, command, flags).await?;
    wait.applied(session, &accepted).await;
    Ok(())
}
