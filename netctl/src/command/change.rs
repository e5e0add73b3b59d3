//! Commands that change the cluster: send one, print its outcome, wait for the nodes.

use bus_schema::Command;

use super::flags::IdFlag;
use super::wait::WaitFlag;
use crate::client::{Accepted, Session};
use crate::failure::Failure;
use crate::output;

/// Sends a command and prints its outcome.
pub(crate) async fn send(
    session: &mut Session,
    command: Command,
    id: &IdFlag,
) -> Result<Accepted, Failure> {
    let accepted = session.command(command, id.command_id).await?;
    output::print(&accepted.to_string())?;
    Ok(accepted)
}

/// Sends a command, and waits until the nodes have applied it: the next line of a script relies on it.
pub(crate) async fn send_and_wait(
    session: &mut Session,
    command: Command,
    id: &IdFlag,
    wait: WaitFlag,
) -> Result<(), Failure> {
    let accepted = send(session, command, id).await?;
    wait.applied(session, &accepted).await;
    Ok(())
}
