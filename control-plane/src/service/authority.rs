//! The CAs of the cluster, and the change from one to the next.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::SystemTime;

use loden_proto::InvalidValue;
use loden_proto::convert::{beyond, count, timestamp};
use loden_proto::names::{self, NodeId};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::{self, AuthorityPhase, RotateAuthorityRequest, RotationStep};
use tonic::{Code, Status};

use super::Shared;
use crate::gate;
use crate::identity::{Phase, PkiError, Step};
use crate::registry::Client;

/// Nodes that are named.
const NAMED: usize = 100;

/// How the CAs are.
pub(super) fn view(shared: &Shared) -> v1::Authority {
    let pki = shared.signer.pki();
    let authority = pki.authority();
    let generation = authority.generation();
    let (current, behind) = connected(shared, generation);
    v1::Authority {
        phase: match authority.phase() {
            Phase::Steady => AuthorityPhase::Steady,
            Phase::Prepared => AuthorityPhase::Prepared,
            Phase::Issuing => AuthorityPhase::Issuing,
        }
        .into(),
        roots: authority
            .described()
            .map(|(key_sha256, expires)| v1::Root { key_sha256, expire_time: Some(timestamp(expires)) })
            .collect(),
        generation,
        nodes_current: count(current.len()),
        nodes_behind: behind.iter().take(NAMED).map(names::node).collect(),
        nodes_behind_left_out: beyond(behind.len(), NAMED),
        retire_time: pki.previous_until(shared.signer.validity()).map(timestamp),
    }
}

/// The nodes that are connected with certificates of a generation, and those with others only.
fn connected(shared: &Shared, generation: u32) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
    let (mut current, mut behind) = (BTreeSet::new(), BTreeSet::new());
    for link in shared.registry.links() {
        if let (Some(node), Client::Holder(holder)) = (link.client.node(), &link.client) {
            let which = if holder.generation == generation { &mut current } else { &mut behind };
            which.insert(node.clone());
        }
    }
    behind.retain(|node| !current.contains(node));
    (current, behind)
}

/// Does a step.
pub(super) async fn rotate(
    shared: &Shared,
    request: &RotateAuthorityRequest,
) -> Result<v1::Authority, Status> {
    let step = match request.step() {
        RotationStep::Prepare => Step::Prepare,
        RotationStep::Issue => Step::Issue,
        RotationStep::Retire => Step::Retire,
        RotationStep::Unspecified => return Err(InvalidValue::missing("step").into()),
    };
    let now = SystemTime::now();
    let pki = shared.signer.pki();
    let sharing = shared.sharing.as_ref();
    let before = sharing.map(|sharing| sharing.take_up(&shared.clerk, pki)).transpose().map_err(failed)?;
    if !request.force {
        would_shut_out(shared, step, now)?;
    }
    pki.rotate(step, shared.signer.validity(), now).map_err(|error| match error {
        PkiError::Step { .. } => reason::status(Code::FailedPrecondition, Reason::InUse, error.to_string()),
        error => failed(error),
    })?;
    if let (Some(sharing), Some(Some(before))) = (sharing, before) {
        sharing.share(&shared.clerk, pki, before).await.map_err(failed)?;
    }
    if step == Step::Retire {
        gate::end_who_is_out(shared, now);
    }
    Ok(view(shared))
}

fn failed(error: impl Display) -> Status {
    tracing::error!(%error, "the CA cannot be changed");
    Status::unavailable(format!("the CA cannot be changed: {error}"))
}

/// Whether somebody who is let in now would not be after a step.
fn would_shut_out(shared: &Shared, step: Step, now: SystemTime) -> Result<(), Status> {
    let refuse = |message: String| Err(reason::status(Code::FailedPrecondition, Reason::InUse, message));
    let pki = shared.signer.pki();
    let authority = pki.authority();
    if step == Step::Prepare || authority.phase() != step.from() {
        return Ok(());
    }
    let (_, behind) = connected(shared, authority.generation());
    if let Some(first) = behind.first() {
        let others = behind.len() - 1;
        return refuse(format!(
            "{} and {others} other nodes have not got another certificate yet; wait, or force it",
            names::node(first)
        ));
    }
    let until = pki.previous_until(shared.signer.validity());
    if let Some(until) = until.filter(|until| step == Step::Retire && now < *until) {
        let until = humantime::format_rfc3339_seconds(until);
        return refuse(format!(
            "certificates that the CA of before has made for nodes that are away may be good until {until}; wait, or \
             force it, and have those join again"
        ));
    }
    Ok(())
}
