//! The test's netmaster.

use super::*;

/// Does netmaster's part for a node: the streams, the log's events, `node join`.
#[derive(Clone)]
pub(super) struct Master {
    pub(super) context: jetstream::Context,
    pub(super) client: Client,
}

impl Master {
    pub(super) async fn init(server: &Server, id: ClusterId) -> Self {
        let master = Self::connect(server).await;
        for (name, subjects) in [
            (subject::LOG, subject::LOG_ALL),
            (subject::ENDPOINTS, subject::ENDPOINT_ALL),
        ] {
            master
                .context
                .create_stream(stream::Config {
                    name: name.to_owned(),
                    subjects: vec![subjects.to_owned()],
                    max_messages_per_subject: if name == subject::ENDPOINTS { 1 } else { -1 },
                    allow_message_ttl: name == subject::ENDPOINTS,
                    ..stream::Config::default()
                })
                .await
                .unwrap();
        }
        let created = ClusterCreated {
            cluster: id,
            settings: Settings::default(),
        };
        master.append(Event::ClusterCreated(created)).await;
        master
    }

    pub(super) async fn connect(server: &Server) -> Self {
        let client = async_nats::connect(server.url()).await.unwrap();
        Self {
            context: jetstream::new(client.clone()),
            client,
        }
    }

    pub(super) async fn append(&self, event: Event) -> Revision {
        let header = Header::new(
            EventId(Uuid::new_v4()),
            0,
            "test",
            CommandId(Uuid::new_v4()),
        );
        let to = subject::of_event(&event).unwrap();
        let envelope = Envelope {
            header,
            body: event,
        };
        self.put(to, codec::to_bytes(&envelope)).await
    }

    pub(super) async fn put(&self, to: String, bytes: Vec<u8>) -> Revision {
        let sent = self.context.publish(to, bytes.into()).await.unwrap();
        Revision(sent.await.unwrap().sequence)
    }

    /// Accepts joins, or rejects them.
    pub(super) async fn serve(&self, refuse: Option<Rejection>, tasks: &mut JoinSet<()>) {
        let mut requests = self
            .client
            .subscribe("contiv.api.v1.node.join")
            .await
            .unwrap();
        self.client.flush().await.unwrap();
        let master = self.clone();
        tasks.spawn(async move {
            while let Some(message) = requests.next().await {
                let request: Request<Command> = codec::from_bytes(&message.payload).unwrap();
                let Command::NodeJoin(join) = request.body else {
                    panic!("no join");
                };
                let reply = match refuse.clone() {
                    Some(rejection) => Reply::rejected(rejection, Revision(1)),
                    None => Reply::Accepted {
                        revision: master.append(joined(join)).await,
                        events: Vec::new(),
                    },
                };
                let to = message.reply.unwrap();
                let bytes = codec::to_bytes(&reply);
                master.client.publish(to, bytes.into()).await.unwrap();
            }
        });
    }
}

pub(super) fn joined(join: bus_schema::command::NodeJoin) -> Event {
    Event::NodeJoined(NodeJoined {
        node: join.node,
        machine: join.machine,
        vtep: join.vtep,
    })
}
