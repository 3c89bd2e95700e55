//! Asking the other replicas what they know of nodes: each knows those that are connected with it.
//!
//! ```text
//!  get or list nodes ─▶ our view ─┬─ there are no others, or one of them asks ─▶ answer
//!                                 └─ the same call to each ─▶ of each node what tells most ─▶ answer
//!
//!  a node would suffer if it were connected ─▶ who is, with each? (`connections`) ─┬─ all have said ─▶ act by it
//!                                                                                  └─ one is silent ─▶ do not act
//!  our store is away ─▶ does one of you serve? (`serving`) ─▶ clients go there, or stay
//! ```
//!
//! They are dialled where their notes say, as readers whose certificates are made here: whoever has the CA may.

mod connections;
mod serving;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use loden_proto::v1::Node;
use loden_transport::{ConnectOptions, Credentials, Principal, Role, ServerAddress, connect_lazy};
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::debug;

#[cfg(test)]
pub(crate) use self::connections::testing;
pub(crate) use self::connections::{Connections, Watch};
pub(crate) use self::serving::Refuge;

use crate::identity::Pki;
use crate::replicas::Others;

/// How long another replica may take; what it knows is then not known.
const WAIT: Duration = Duration::from_secs(2);
/// How long the certificates live that they are shown.
const LIFE: Duration = Duration::from_secs(3600);
/// The largest answer: a page of nodes with much to tell.
pub(crate) const ANSWER_BYTES: usize = 64 << 20;
/// Marks a call of a replica: it is answered from what is known here.
const ASKED: &str = "loden-replica";

/// The other replicas, as they are asked.
#[derive(Debug)]
pub(crate) struct Colleagues {
    pki: Arc<Pki>,
    name: Principal,
    others: Others,
    /// By address.
    dialled: Mutex<BTreeMap<String, Dialled>>,
}

#[derive(Debug)]
struct Dialled {
    channel: Channel,
    /// Of the CA that has made our certificate.
    generation: u32,
    since: SystemTime,
}

impl Colleagues {
    pub(crate) const fn new(pki: Arc<Pki>, name: Principal, others: Others) -> Self {
        Self { pki, name, others, dialled: Mutex::new(BTreeMap::new()) }
    }

    /// By which name the others know this replica.
    pub(crate) const fn name(&self) -> &Principal {
        &self.name
    }

    /// Whether a call is one of another replica.
    pub(crate) fn is_asking<T>(request: &Request<T>) -> bool {
        request.metadata().contains_key(ASKED)
    }

    /// What each of the others answers that does in time.
    pub(crate) async fn ask<Q, A, F>(&self, question: &Q, call: impl Fn(Channel, Request<Q>) -> F) -> Vec<A>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.ask_each(question, call).await.into_iter().filter_map(|(_, answer)| answer).collect()
    }

    /// What each of the others answers, by its name; `None` of one that says not where it is, or does not answer in
    /// time.
    async fn ask_each<Q, A, F>(
        &self,
        question: &Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Vec<(String, Option<A>)>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let others: Vec<_> = self
            .others
            .borrow()
            .iter()
            .map(|other| (other.name.clone(), other.note.address.clone()))
            .collect();
        let now = SystemTime::now();
        let calls = others.into_iter().map(|(name, address)| {
            let channel = address.and_then(|address| self.channel(&address, now));
            let asked = channel.map(|channel| {
                let mut request = Request::new(question.clone());
                request.metadata_mut().insert(ASKED, MetadataValue::<Ascii>::from_static("1"));
                timeout(WAIT, call(channel, request))
            });
            async move {
                let answer = match asked {
                    Some(asked) => asked.await.ok().and_then(Result::ok).map(Response::into_inner),
                    None => None,
                };
                (name, answer)
            }
        });
        join_all(calls).await
    }

    /// `None` if it cannot be dialled, which is no reason not to answer.
    fn channel(&self, address: &str, now: SystemTime) -> Option<Channel> {
        let authority = self.pki.authority();
        let is_fresh = |dialled: &Dialled| {
            let age = now.duration_since(dialled.since);
            dialled.generation == authority.generation() && age.is_ok_and(|age| age < LIFE / 2)
        };
        let mut all = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(dialled) = all.entry(address.to_owned())
            && is_fresh(dialled.get())
        {
            return Some(dialled.get().channel.clone());
        }
        let server: ServerAddress = address.parse().ok()?;
        let life = authority.most(LIFE, now);
        let bundle = authority.issue(Role::Reader(self.name.clone()), &[], 0, life, now);
        let credentials = bundle.map(|bundle| Credentials::fixed(&bundle));
        let Ok(Ok(credentials)) = credentials else {
            debug!(address, "no certificate could be made for asking another replica");
            return None;
        };
        let channel = connect_lazy(&[server], &credentials, &ConnectOptions::default()).ok()?;
        let dialled = Dialled { channel: channel.clone(), generation: authority.generation(), since: now };
        all.insert(address.to_owned(), dialled);
        Some(channel)
    }
}

/// Of one node what tells most: whoever it is connected with knows it, else whoever has seen it last.
pub(crate) fn more_telling(one: Node, other: Node) -> Node {
    let rank = |node: &Node| {
        let since = node.since.map_or((i64::MIN, 0), |since| (since.seconds, since.nanos));
        (node.connected, since)
    };
    let (mut more, less) = if rank(&other) > rank(&one) { (other, one) } else { (one, other) };
    more.refused_agent = more.refused_agent.or(less.refused_agent);
    more
}

/// The nodes of several lists, each once, in the order of their names.
pub(crate) fn merge(lists: impl IntoIterator<Item = Vec<Node>>) -> Vec<Node> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for node in lists.into_iter().flatten() {
        let known = match nodes.remove(&node.name) {
            Some(known) => more_telling(known, node),
            None => node,
        };
        nodes.insert(known.name.clone(), known);
    }
    nodes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use loden_proto::v1::RefusedAgent;
    use prost_types::Timestamp;

    use super::*;

    fn node(name: &str, connected: bool, since: Option<i64>) -> Node {
        let since = since.map(|seconds| Timestamp { seconds, nanos: 0 });
        Node { name: name.to_owned(), connected, since, ..Node::default() }
    }

    #[test]
    fn whoever_is_connected_with_a_node_knows_it_else_whoever_saw_it_last() {
        let here = node("nodes/a", true, Some(5));
        for other in [node("nodes/a", false, Some(9)), node("nodes/a", false, None)] {
            assert_eq!(more_telling(here.clone(), other.clone()), here);
            assert_eq!(more_telling(other, here.clone()), here);
        }
        let last = node("nodes/a", false, Some(9));
        assert_eq!(more_telling(node("nodes/a", false, Some(5)), last.clone()), last);
        let refused = RefusedAgent { address: "192.0.2.7:1".to_owned(), ..RefusedAgent::default() };
        let noticed = Node { refused_agent: Some(refused), ..node("nodes/a", false, None) };
        assert!(more_telling(here, noticed).refused_agent.is_some());
    }

    #[test]
    fn lists_are_merged_in_the_order_of_names() {
        let merged = merge([
            vec![node("nodes/a", false, None), node("nodes/c", true, Some(1))],
            vec![node("nodes/a", true, Some(1)), node("nodes/b", false, Some(1))],
        ]);
        let names: Vec<_> = merged.iter().map(|node| (&*node.name, node.connected)).collect();
        assert_eq!(names, [("nodes/a", true), ("nodes/b", false), ("nodes/c", true)]);
    }
}
