//! `lodenctl peers watch`: the peers of a network as they change.
//!
//! ```text
//! WatchPeers(token) ──▶ messages ──fold──▶ Event ──▶ lines | JSON lines
//!        ▲                                            │
//!        └───────── connection lost: again, with the last token
//! ```

use std::time::Duration;

use clap::Subcommand;
use loden_process::lines;
use loden_proto::v1;
use serde::Serialize;
use tonic::{Code, Status};

use crate::connection::Connection;
use crate::endpoint::EndpointView;
use crate::failure::{self, Failure};
use crate::network;
use crate::output::{Output, or_dash, print};

/// Between two attempts to go on after a lost connection.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Prints all peers of a network, then every change; with -o json one object a line
    Watch {
        /// The network's name
        network: String,
        /// Ends after the first whole set
        #[arg(long)]
        once: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, connection: &Connection, output: Output) -> Result<(), Failure> {
        let Self::Watch { network, once } = self;
        let mut follower =
            Follower { output, once, token: Vec::new(), pages: Vec::new(), paged: Delta::default() };
        loop {
            match follower.follow(connection, &network).await {
                Ok(Next::Done) => return Ok(()),
                Ok(Next::Resume) => lines::error("lodenctl: the stream has ended; going on"),
                Err(Failure::Status(status)) if is_passing(&status) && !once => {
                    lines::error(format_args!("lodenctl: {}; going on", Failure::Status(status)));
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether trying again helps.
fn is_passing(status: &Status) -> bool {
    failure::is_ours(status) || status.code() == Code::Unavailable
}

/// What comes after a stream.
enum Next {
    Done,
    Resume,
}

/// One watch over all of its streams.
struct Follower {
    output: Output,
    once: bool,
    /// Of the last message that was printed.
    token: Vec<u8>,
    /// Peers of a set that is not whole yet.
    pages: Vec<v1::Peer>,
    /// A change that is not whole yet.
    paged: Delta,
}

#[derive(Default)]
struct Delta {
    upserts: Vec<v1::Peer>,
    removed: Vec<String>,
}

impl Follower {
    async fn follow(&mut self, connection: &Connection, network: &str) -> Result<Next, Failure> {
        self.pages.clear();
        self.paged = Delta::default();
        let request = v1::WatchPeersRequest {
            boot_id: String::new(),
            network: network::name(network),
            resume_token: self.token.clone(),
            instance_id: String::new(),
            seen_token: Vec::new(),
        };
        let mut stream = connection.peers().watch_peers(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            let event = self.fold(message);
            let whole = matches!(event, Some(Event::Snapshot { .. }));
            if let Some(event) = event {
                match self.output {
                    Output::Table => print(&event.text())?,
                    Output::Json => print(&serde_json::to_string(&event).map_err(std::io::Error::from)?)?,
                }
            }
            if whole && self.once {
                return Ok(Next::Done);
            }
        }
        Ok(Next::Resume)
    }

    /// Takes one message in; an event once it is whole.
    fn fold(&mut self, message: v1::WatchPeersResponse) -> Option<Event> {
        let event = match message.update? {
            v1::watch_peers_response::Update::Heartbeat(_) => None,
            v1::watch_peers_response::Update::Snapshot(page) => {
                self.pages.extend(page.peers);
                page.last.then(|| Event::Snapshot {
                    adopting: page.adopting,
                    peers: std::mem::take(&mut self.pages).into_iter().map(Into::into).collect(),
                })
            }
            v1::watch_peers_response::Update::Delta(delta) => {
                self.paged.upserts.extend(delta.upserts);
                self.paged.removed.extend(delta.removed);
                delta.last.then(|| {
                    let Delta { upserts, removed } = std::mem::take(&mut self.paged);
                    let upserts = upserts.into_iter().map(Into::into).collect();
                    Event::Delta { upserts, removed, network_changed: delta.network.is_some() }
                })
            }
        };
        if !message.resume_token.is_empty() {
            self.token = message.resume_token;
        }
        event
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Snapshot { adopting: bool, peers: Vec<PeerView> },
    Delta { upserts: Vec<PeerView>, removed: Vec<String>, network_changed: bool },
}

/// A peer as shown.
#[derive(Debug, Serialize)]
struct PeerView {
    node: String,
    subnets: Vec<String>,
    endpoint: EndpointView,
}

impl From<v1::Peer> for PeerView {
    fn from(wire: v1::Peer) -> Self {
        Self { node: wire.node, subnets: wire.subnets, endpoint: wire.endpoint.unwrap_or_default().into() }
    }
}

impl PeerView {
    fn words(&self) -> String {
        let (addresses, receivers) = (self.endpoint.addresses(), self.endpoint.receivers());
        let parts = [self.subnets.join(" "), addresses, receivers].map(or_dash);
        format!("{}  {}", self.node, parts.join("  "))
    }
}

impl Event {
    /// `=` the whole set and what is in it, `+` new or changed, `-` gone.
    fn text(&self) -> String {
        let lines: Vec<String> = match self {
            Self::Snapshot { adopting, peers } => {
                let adopting = if *adopting { ", leases are still being adopted" } else { "" };
                let head = format!("= {} peers{adopting}", peers.len());
                [head].into_iter().chain(peers.iter().map(|peer| format!("+ {}", peer.words()))).collect()
            }
            Self::Delta { upserts, removed, network_changed } => {
                let changed = network_changed.then(|| "~ the network has changed".to_owned());
                let upserts = upserts.iter().map(|peer| format!("+ {}", peer.words()));
                let removed = removed.iter().map(|node| format!("- {node}"));
                changed.into_iter().chain(upserts).chain(removed).collect()
            }
        };
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(node: &str) -> v1::Peer {
        v1::Peer {
            node: node.into(),
            subnets: vec!["10.1.3.0/24".into()],
            endpoint: Some(v1::Endpoint { address_v4: "192.0.2.1".into(), ..Default::default() }),
        }
    }

    fn message(update: v1::watch_peers_response::Update, token: &'static [u8]) -> v1::WatchPeersResponse {
        v1::WatchPeersResponse { update: Some(update), resume_token: token.to_vec() }
    }

    fn page(node: &str, last: bool, token: &'static [u8]) -> v1::WatchPeersResponse {
        let page = v1::SnapshotPage { peers: vec![peer(node)], last, ..Default::default() };
        message(v1::watch_peers_response::Update::Snapshot(page), token)
    }

    fn follower() -> Follower {
        let (token, pages) = (Vec::new(), Vec::new());
        Follower { output: Output::Table, once: false, token, pages, paged: Delta::default() }
    }

    #[test]
    fn a_set_is_printed_once_it_is_whole() {
        let mut follower = follower();
        assert!(follower.fold(page("a", false, b"")).is_none());
        let event = follower.fold(page("b", true, b"t1")).unwrap();
        assert_eq!(event.text(), "= 2 peers\n+ a  10.1.3.0/24  192.0.2.1  -\n+ b  10.1.3.0/24  192.0.2.1  -");
        assert_eq!(follower.token, b"t1");
    }

    #[test]
    fn a_change_is_printed_once_it_is_whole_and_heartbeats_only_move_the_token() {
        let mut follower = follower();
        let delta = |upserts: &[&str], removed: &[&str], last| v1::Delta {
            upserts: upserts.iter().map(|node| peer(node)).collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
            last,
            network: None,
        };
        let part = message(v1::watch_peers_response::Update::Delta(delta(&["c"], &[], false)), b"");
        assert!(follower.fold(part).is_none());
        let rest = message(v1::watch_peers_response::Update::Delta(delta(&[], &["a"], true)), b"t2");
        let event = follower.fold(rest).unwrap();
        assert_eq!(event.text(), "+ c  10.1.3.0/24  192.0.2.1  -\n- a");
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            json!({
                "event": "delta",
                "upserts": [{
                    "node": "c",
                    "subnets": ["10.1.3.0/24"],
                    "endpoint": {"address_v4": "192.0.2.1", "address_v6": null, "receivers": []},
                }],
                "removed": ["a"],
                "network_changed": false,
            })
        );
        let beat = message(v1::watch_peers_response::Update::Heartbeat(v1::Heartbeat::default()), b"t3");
        assert!(follower.fold(beat).is_none());
        assert_eq!(follower.token, b"t3");
    }
}
