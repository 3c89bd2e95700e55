//! NodeService.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use loden_proto::convert::{count, timestamp};
use loden_proto::names::{self, NodeId};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::node_service_server::NodeService;
use loden_proto::v1::{
    DeleteNodeRequest, GetNodeRequest, ListConnectionsRequest, ListConnectionsResponse, ListNodesRequest,
    ListNodesResponse, Node, RevokeNodeRequest, RevokeNodeResponse,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::network::{not_found, wrong_answer};
use super::page::Page;
use super::refusal::failed;
use super::{Shared, caller};
use crate::clerk::Answer;
use crate::colleagues::{ANSWER_BYTES, Colleagues, merge, more_telling};
use crate::ledger::{Command, Farewell, LeaseState, Member};
use crate::status::Membership;

pub(super) struct Nodes(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        let node = names::parse_node(&request.get_ref().name).map_err(|invalid| invalid.at("name"))?;
        let here = self.0.node_ids().contains(&node).then(|| {
            let (mut memberships, _) = self.memberships(std::slice::from_ref(&node));
            let memberships = memberships.remove(&node).unwrap_or_default();
            self.view(&node, &memberships, SystemTime::now())
        });
        let there = if Colleagues::is_asking(&request) {
            Vec::new()
        } else {
            let call = |channel, request| async move { client(channel).get_node(request).await };
            self.0.colleagues.ask(request.get_ref(), call).await
        };
        let known = here.into_iter().chain(there).reduce(more_telling);
        known.map(Response::new).ok_or_else(|| not_found(&names::node(&node)))
    }

    async fn revoke_node(
        &self,
        request: Request<RevokeNodeRequest>,
    ) -> Result<Response<RevokeNodeResponse>, Status> {
        let caller = caller(&request)?;
        let RevokeNodeRequest { name, allow_missing } = request.into_inner();
        let node = names::parse_node(&name).map_err(|invalid| invalid.at("name"))?;
        let revoked = self.revoke(&node, allow_missing).await;
        self.0.audit.outcome(&caller, &name, revoked).map(Response::new)
    }

    async fn delete_node(&self, request: Request<DeleteNodeRequest>) -> Result<Response<()>, Status> {
        let caller = caller(&request)?;
        let name = request.into_inner().name;
        let node = names::parse_node(&name).map_err(|invalid| invalid.at("name"))?;
        let deleted = self.delete(&node).await;
        self.0.audit.outcome(&caller, &name, deleted)?;
        Ok(Response::new(()))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let is_asked_by_another = Colleagues::is_asking(&request);
        let request = request.into_inner();
        let there: Vec<ListNodesResponse> = if is_asked_by_another {
            Vec::new()
        } else {
            let call = |channel, request| async move { client(channel).list_nodes(request).await };
            self.0.colleagues.ask(&request, call).await
        };
        let ListNodesRequest { page_size, page_token } = request;
        let page = Page::new("", page_size, &page_token)?;
        let after: Option<NodeId> = page.after(str::parse)?;
        let all = self.0.node_ids();
        let later = all.into_iter().filter(|node| after.as_ref().is_none_or(|after| node > after));
        // One more than the page holds: it shows whether there is a next one.
        let nodes: Vec<NodeId> = later.take(page.size + 1).collect();
        let (mut memberships, revision) = self.memberships(&nodes);
        let now = SystemTime::now();
        let view = |node: &NodeId| {
            let memberships = memberships.remove(node).unwrap_or_default();
            self.view(node, &memberships, now)
        };
        let (here, next_page_token) = page.take(nodes.into_iter(), ToString::to_string, view);
        let here = ListNodesResponse { nodes: here, next_page_token, revision };
        let answer =
            if there.is_empty() { here } else { joined(&page, [vec![here], there].concat(), revision) };
        Ok(Response::new(answer))
    }

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        let ListConnectionsRequest { page_size, page_token, node } = request.into_inner();
        let page = Page::new(&node, page_size, &page_token)?;
        let after: Option<NodeId> = page.after(str::parse)?;
        let only = (!node.is_empty()).then(|| names::parse_node(&node)).transpose();
        let only = only.map_err(|invalid| invalid.at("node"))?;
        let here = self.0.connections_here(only.as_ref()).to_wire().into_iter();
        let later = here.filter(|(node, _)| after.as_ref().is_none_or(|after| node > after));
        let (connections, next_page_token) =
            page.take(later, |(node, _)| node.to_string(), |(_, connection)| connection.clone());
        let replica = self.0.colleagues.name().to_string();
        Ok(Response::new(ListConnectionsResponse { connections, next_page_token, replica }))
    }
}

fn client(channel: Channel) -> NodeServiceClient<Channel> {
    NodeServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES)
}

/// One page of several, which begin at the same place. It ends where the first of them does that goes on: of what comes
/// then nothing is known from that one.
fn joined(page: &Page, pages: Vec<ListNodesResponse>, revision: u64) -> ListNodesResponse {
    let goes_on = pages.iter().filter(|page| !page.next_page_token.is_empty());
    let end = goes_on.filter_map(|page| Some(page.nodes.last()?.name.clone())).min();
    let mut nodes = merge(pages.into_iter().map(|page| page.nodes));
    nodes.retain(|node| end.as_ref().is_none_or(|end| node.name <= *end));
    let id = |node: &Node| node.name.strip_prefix("nodes/").unwrap_or(&node.name).to_owned();
    let (nodes, mut next_page_token) = page.take(nodes.into_iter(), id, Node::clone);
    if let (true, Some(_), Some(last)) = (next_page_token.is_empty(), end, nodes.last()) {
        next_page_token = page.token(&id(last));
    }
    ListNodesResponse { nodes, next_page_token, revision }
}

impl Nodes {
    /// Whether anything is known of a node: a certificate, a lease, or a connection.
    fn knows(&self, node: &NodeId) -> bool {
        self.0.node_ids().contains(node)
            || self.0.clerk.read(|ledger| ledger.member(node).is_some_and(|member| !member.deleted))
            || self.0.registry.holds(node)
    }

    async fn revoke(&self, node: &NodeId, allow_missing: bool) -> Result<RevokeNodeResponse, Status> {
        if !allow_missing && !self.knows(node) {
            return Err(not_found(&names::node(node)));
        }
        let active = self.0.clerk.read(|ledger| {
            let leases = ledger.leases(None, None);
            leases.filter(|lease| lease.name.node == *node && lease.state == LeaseState::Active).count()
        });
        let member = self.shut_out(node, Farewell::Hold).await?;
        Ok(RevokeNodeResponse { epoch: member.epoch, leases: count(active) })
    }

    async fn delete(&self, node: &NodeId) -> Result<Member, Status> {
        if !self.knows(node) {
            return Err(not_found(&names::node(node)));
        }
        if let Some(why) = self.may_stay(node).await {
            let message = format!("{} {why}; revoke it first", names::node(node));
            return Err(reason::status(Code::FailedPrecondition, Reason::InUse, message));
        }
        self.shut_out(node, Farewell::Release).await
    }

    /// Why a node may be one that is there, with whichever replica.
    async fn may_stay(&self, node: &NodeId) -> Option<String> {
        if self.0.nodes.connected().contains(node) {
            return Some("is connected".to_owned());
        }
        let member = self.0.clerk.read(|ledger| ledger.member(node));
        if member.is_some_and(|member| member.shut_out.is_some()) {
            // It is let in nowhere.
            return None;
        }
        if self.0.registry.holds(node) {
            return Some("is connected".to_owned());
        }
        let connections = self.0.connections_of(node).await;
        // It may only just be taking its leases, and have no watch yet.
        if connections.has(node) {
            return Some("is connected with another replica".to_owned());
        }
        connections.unasked().map(|replicas| format!("may be connected with {replicas}"))
    }

    /// Shuts a node out. Its connections end as soon as that is applied, by `gate`.
    async fn shut_out(&self, node: &NodeId, farewell: Farewell) -> Result<Member, Status> {
        let epoch = self.0.clerk.read(|ledger| ledger.identity_epoch(node));
        // One that was issued by hand may have a higher one than was ever given here.
        let links = self.0.registry.links();
        let shown = links.iter().filter(|link| link.client.node() == Some(node));
        let epoch = shown.map(|link| link.client.epoch()).max().unwrap_or(0).max(epoch).saturating_add(1);
        let command = Command::ShutOut { node: node.clone(), epoch, farewell };
        match self.0.clerk.submit(command).await.map_err(failed)? {
            Answer::Member(member) => Ok(member),
            other => Err(wrong_answer(&other)),
        }
    }

    /// A node as operators see it.
    fn view(&self, node: &NodeId, memberships: &[Membership], now: SystemTime) -> Node {
        let mut view = self.0.nodes.view(node, memberships, now);
        let member = self.0.clerk.read(|ledger| ledger.member(node));
        view.revoke_time =
            member.filter(|member| !member.deleted).and_then(|member| member.shut_out).map(timestamp);
        view
    }

    /// The networks of each of the nodes, and the revision that shows them.
    fn memberships(&self, nodes: &[NodeId]) -> (HashMap<NodeId, Vec<Membership>>, u64) {
        let mut memberships: HashMap<NodeId, Vec<Membership>> = HashMap::new();
        let (leases, revision) = self.0.clerk.read(|ledger| {
            let networks: Vec<_> = ledger.networks().map(|network| network.id.clone()).collect();
            let leases = networks.into_iter().flat_map(|network| {
                nodes.iter().filter_map(move |node| {
                    let name = loden_proto::model::LeaseName { network: network.clone(), node: node.clone() };
                    ledger.lease(&name)
                })
            });
            (leases.collect::<Vec<_>>(), ledger.revision().0)
        });
        for lease in leases {
            let current = self.0.feeds.last_change(&lease.name.network).unwrap_or_default();
            let membership = Membership { network: lease.name.network, subnets: lease.subnets, current };
            memberships.entry(lease.name.node).or_default().push(membership);
        }
        (memberships, revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(names: &[&str], next: &str) -> ListNodesResponse {
        let nodes =
            names.iter().map(|name| Node { name: format!("nodes/{name}"), ..Node::default() }).collect();
        ListNodesResponse { nodes, next_page_token: next.to_owned(), revision: 1 }
    }

    #[test]
    fn a_page_of_several_replicas_leaves_nothing_out() {
        let page = Page::new("", 3, "").unwrap();
        let names = |answer: &ListNodesResponse| {
            answer.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>()
        };
        let all = joined(&page, vec![page_of(&["a", "c"], ""), page_of(&["b", "c"], "")], 7);
        assert_eq!(
            (names(&all), &*all.next_page_token),
            (vec!["nodes/a".into(), "nodes/b".into(), "nodes/c".into()], "")
        );
        assert_eq!(all.revision, 7);
        // The first of them goes on after c, and d may not be the next.
        let some = joined(&page, vec![page_of(&["a", "c"], "more"), page_of(&["d"], "")], 7);
        assert_eq!(names(&some), ["nodes/a", "nodes/c"]);
        let after = Page::new("", 3, &some.next_page_token).unwrap();
        assert_eq!(after.after.as_deref(), Some("c"));
        let many = joined(&page, vec![page_of(&["a", "b"], ""), page_of(&["c", "d"], "")], 7);
        assert_eq!(names(&many), ["nodes/a", "nodes/b", "nodes/c"]);
        assert_eq!(Page::new("", 3, &many.next_page_token).unwrap().after.as_deref(), Some("c"));
    }
}
