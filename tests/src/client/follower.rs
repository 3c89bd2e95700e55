//! A watch, read into the set of peers that it tells.

use std::collections::BTreeMap;

use loden_proto::v1;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// One whole message of a watch, taken in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    /// The whole set.
    Snapshot {
        /// It lacks the leases that have not been adopted yet.
        adopting: bool,
    },
    /// A change.
    Delta {
        /// Nodes that are new or changed.
        upserts: Vec<String>,
        /// Nodes that are gone.
        removed: Vec<String>,
    },
    /// Nothing has changed.
    Heartbeat,
}

/// Follows the peers of a network, over as many watches as it takes.
#[derive(Debug)]
pub struct Follower {
    /// The peers as of the last message.
    pub peers: BTreeMap<String, v1::Peer>,
    /// Bytes of all messages so far.
    pub received: usize,
    network: String,
    instance: String,
    token: Vec<u8>,
    stream: Option<Streaming<v1::WatchPeersResponse>>,
}

impl Follower {
    /// An observer's; `network` is its bare name.
    #[must_use]
    pub fn observer(network: &str) -> Self {
        Self {
            peers: BTreeMap::new(),
            received: 0,
            network: format!("networks/{network}"),
            instance: String::new(),
            token: Vec::new(),
            stream: None,
        }
    }

    /// A node's that has acquired its lease as this instance.
    #[must_use]
    pub fn node(network: &str, instance: u128) -> Self {
        Self { instance: format!("{instance:032x}"), ..Self::observer(network) }
    }

    /// Opens a watch where the last one ended.
    ///
    /// # Errors
    /// What the server says.
    pub async fn open(&mut self, channel: &Channel) -> Result<(), Status> {
        let request = v1::WatchPeersRequest {
            boot_id: String::new(),
            network: self.network.clone(),
            resume_token: self.token.clone(),
            instance_id: self.instance.clone(),
            seen_token: Vec::new(),
        };
        self.stream = Some(PeerServiceClient::new(channel.clone()).watch_peers(request).await?.into_inner());
        Ok(())
    }

    /// Waits for one whole message, and takes it in with its last page.
    ///
    /// # Errors
    /// How the watch ended; `UNAVAILABLE` if the server closed it without a word.
    pub async fn next(&mut self) -> Result<Seen, Status> {
        let stream = self.stream.as_mut().ok_or_else(|| Status::internal("no watch is open"))?;
        let (mut snapshot, mut upserts, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let message = stream.message().await?;
            let message = message.ok_or_else(|| Status::unavailable("the watch ended without a status"))?;
            self.received += message.encoded_len();
            let update = message.update.ok_or_else(|| Status::internal("a message without an update"))?;
            let seen = match update {
                Update::Snapshot(page) => {
                    snapshot.extend(page.peers);
                    page.last.then_some(Seen::Snapshot { adopting: page.adopting })
                }
                Update::Delta(delta) => {
                    upserts.extend(delta.upserts);
                    removed.extend(delta.removed);
                    let nodes = || upserts.iter().map(|peer: &v1::Peer| peer.node.clone()).collect();
                    delta.last.then(|| Seen::Delta { upserts: nodes(), removed: removed.clone() })
                }
                Update::Heartbeat(_) => Some(Seen::Heartbeat),
            };
            let Some(seen) = seen else { continue };
            if matches!(seen, Seen::Snapshot { .. }) {
                self.peers.clear();
            }
            let peers = snapshot.into_iter().chain(upserts);
            self.peers.extend(peers.map(|peer| (peer.node.clone(), peer)));
            for node in &removed {
                self.peers.remove(node);
            }
            self.token = message.resume_token;
            return Ok(seen);
        }
    }
}
