//! The bus of a node with an empty kernel.

use super::*;

/// A node's end of the bus, with an empty kernel.
pub(super) struct Node {
    pub(super) facts: watch::Receiver<Projection>,
    pub(super) view: watch::Receiver<EndpointsView>,
    pub(super) log: watch::Receiver<LogState>,
    pub(super) endpoints: EndpointsHandle,
    pub(super) facts_handle: Facts,
    pub(super) healings: Healings,
    pub(super) published: watch::Sender<Published>,
    pub(super) leave: Leave,
    _kernel: watch::Sender<Kernel>,
    _status: watch::Sender<NodeStatus>,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

pub(super) fn me() -> Identity {
    Identity {
        node: NodeName::new("a").unwrap(),
        machine: MachineId("m".to_owned()),
        vtep: "198.18.0.1".parse().unwrap(),
    }
}

fn status() -> NodeStatus {
    NodeStatus {
        node: me().node,
        machine: me().machine,
        vtep: me().vtep,
        version: "test".to_owned(),
        applied: Revision(0),
        log: LogState::CatchingUp,
        engine: None,
        domain: bus_schema::node::DomainKind::Netns,
        endpoints: 0,
        unpublished: 0,
        blocks: 0,
        drained: false,
        left: false,
        alarms: Vec::new(),
        dns: None,
        healing: None,
        at: None,
        surroundings: None,
        carries: vec![],
    }
}

impl Node {
    pub(super) fn start(url: String, known: Projection) -> Self {
        let healings = Healings::default();
        let folder = tempfile::tempdir().unwrap();
        let (disk, ..) = crate::store::Disk::open(folder.path()).unwrap();
        let facts = Facts::new(known, Arc::new(disk));
        let (bus, requests) = BusHandle::new();
        let (kernel, kernel_rx) = watch::channel(Kernel {
            generation: u64::MAX,
            was_in_sync: true,
            in_sync: true,
            ..Kernel::default()
        });
        let (endpoints, _) = EndpointsHandle::start(EndpointsConfig {
            me: me().node,
            journal: &folder.path().join("journal"),
            mtu: 1450,
            facts: facts.subscribe(),
            kernel: kernel_rx,
            bus,
        })
        .unwrap();
        let (log, log_rx) = watch::channel(LogState::CatchingUp);
        let (view, view_rx) = watch::channel(EndpointsView::default());
        let (status, status_rx) = watch::channel(status());
        let published = watch::Sender::new(Published::default());
        let leave = Leave::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(BusConfig {
            url,
            me: me(),
            facts: facts.clone(),
            view,
            log,
            endpoints: endpoints.clone(),
            leave: leave.clone(),
            healings: healings.clone(),
            questions: mpsc::channel(1).0,
            status: status_rx,
            requests,
            published: published.clone(),
        }));
        Self {
            facts: facts.subscribe(),
            view: view_rx,
            log: log_rx,
            endpoints,
            facts_handle: facts,
            healings,
            published,
            leave,
            _kernel: kernel,
            _status: status,
            _folder: folder,
            _tasks: tasks,
        }
    }

    pub(super) async fn wait_for_log_state(
        &self,
        what: &str,
        is: impl Fn(&LogState) -> bool,
    ) -> LogState {
        let mut log = self.log.clone();
        let waited = tokio::time::timeout(Duration::from_secs(20), log.wait_for(is)).await;
        match waited {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!("never {what}: {:?}", self.log.borrow()),
        }
    }

    pub(super) async fn wait_until_in_sync(&self) {
        self.wait_for_log_state("in sync", |log| *log == LogState::InSync)
            .await;
    }

    pub(super) async fn wait_until_applied(&self, revision: Revision) {
        let mut facts = self.facts.clone();
        let waited = facts.wait_for(|facts| facts.applied >= revision);
        let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
        waited.expect("the revision is applied").unwrap();
    }
}
