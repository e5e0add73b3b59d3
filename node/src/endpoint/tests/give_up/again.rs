//! Commands that give up a block and are sent again.

use super::*;

/// Netmaster may have accepted the lost command, and leased the block to this node again: an endpoint
/// would get an address that the same command, sent again under another id, takes away.
#[tokio::test]
async fn block_stays_given_up_while_netmaster_is_asked_again() {
    let address = ip("10.0.0.16");
    let block = BLOCK[0].0.parse().unwrap();
    let ended = [
        Record::ReturnEnded { key: key(), block },
        Record::CedeEnded {
            key: key(),
            address,
        },
    ];
    for (is_cede, ended) in [false, true].into_iter().zip(ended) {
        let mut bench = Bench::new(&BLOCK);
        let give_up = |handle: EndpointsHandle| async move {
            match is_cede {
                true => handle.cede(cede_request("10.0.0.16", "b", false)).await,
                false => handle.return_block(pool(), false).await.map(drop),
            }
        };
        let first = tokio::spawn(give_up(bench.handle.clone()));
        let (lost, answer) = bench.identified().await;
        let reason = "no answer in time".to_owned();
        answer.send(Err(BusError::Unreachable(reason))).unwrap();
        first.await.unwrap().unwrap_err();
        bench.kernel.send_modify(|kernel| kernel.generation = 0);
        let again = tokio::spawn(give_up(bench.handle.clone()));
        while bench.handle.giving_up.all().is_empty() {
            tokio::task::yield_now().await;
        }
        // As `settle` does.
        let settled = bench.handle.write_records(vec![ended.clone()]);
        settled.await.unwrap();
        bench
            .kernel
            .send_modify(|kernel| kernel.generation = u64::MAX);
        let (id, answer) = bench.identified().await;
        assert_eq!(id, lost, "cede: {is_cede}");
        answer.send(Ok(Revision(7))).unwrap();
        again.await.unwrap().unwrap();
        bench.facts.send_modify(|facts| facts.applied = Revision(7));
        bench.handle.write_records(vec![ended]).await.unwrap();
        let ledger = bench.handle.snapshots().borrow().ledger.clone();
        assert_eq!(ledger.usage(&key()), None);
    }
}

/// The command was rejected before this node held the block, and `settle` concludes that the block stays.
/// Meanwhile it is sent again, and accepted or perhaps accepted.
#[tokio::test]
async fn rejection_counts_only_until_the_command_is_sent_again() {
    let block = BLOCK[0].0.parse().unwrap();
    let ended = Record::ReturnEnded { key: key(), block };
    let unknown = BusError::Unreachable("no answer in time".to_owned());
    for outcome in [Ok(Revision(9)), Err(unknown)] {
        let mut bench = Bench::new(&BLOCK);
        bench.facts.send_modify(|facts| facts.applied = Revision(1));
        let not_held = || {
            rejected(Rejection::BlockNotHeld {
                block,
                network: net(),
                node: node("a"),
            })
        };
        for answered in [Err(not_held()), outcome.clone()] {
            let handle = bench.handle.clone();
            let asked = tokio::spawn(async move { handle.return_block(pool(), false).await });
            let (_, answer) = bench.identified().await;
            answer.send(answered.clone()).unwrap();
            assert_eq!(asked.await.unwrap().is_ok(), answered.is_ok());
        }
        // As `settle` does, by the facts and the decision of before.
        let settled = bench.handle.write_records(vec![ended.clone()]);
        settled.await.unwrap();
        assert_eq!(returning(&bench), [BLOCK[0].0], "{outcome:?}");
        // No endpoint gets an address of it.
        assert_eq!(bench.spare().await.free, 0);
    }
}
