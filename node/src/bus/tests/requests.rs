//! Commands that are sent more than once.

use bus_schema::command::BlockReturn;

use super::*;
use crate::requests::BusError;

fn give_up() -> Command {
    Command::BlockReturn(BlockReturn {
        tenant: TenantName::new("red").unwrap(),
        network: "net".parse().unwrap(),
        group: None,
        block: "10.0.0.16/28".parse().unwrap(),
        node: me().node,
    })
}

/// Netmaster rejects the second of two sendings, and answers the first one or not. Whether no sending
/// can be accepted any more.
async fn rejected_for_good(first_is_answered: bool) -> bool {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), false).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let to = subject::of_command(&give_up());
    let mut requests = client.subscribe(to).await.unwrap();
    client.flush().await.unwrap();
    let master = client.clone();
    let answers = tokio::spawn(async move {
        let first = requests.next().await.unwrap();
        let second = requests.next().await.unwrap();
        let answered = [second].into_iter();
        for message in answered.chain(first_is_answered.then_some(first)) {
            let rejection = Rejection::BlockNotHeld {
                block: "10.0.0.16/28".parse().unwrap(),
                network: "net".parse().unwrap(),
                node: me().node,
            };
            let reply = codec::to_bytes(&Reply::rejected(rejection, Revision(1)));
            let to = message.reply.unwrap();
            master.publish(to, reply.into()).await.unwrap();
        }
        requests
    });
    let id = CommandId(Uuid::new_v4());
    let outcome = requester::request_command(&client, id, give_up(), Revision(0)).await;
    drop(answers.await.unwrap());
    match outcome {
        Err(BusError::Rejected { is_final, .. }) => is_final,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rejection_is_final_only_if_each_sending_was_rejected() {
    assert!(rejected_for_good(true).await);
    assert!(!rejected_for_good(false).await);
}
