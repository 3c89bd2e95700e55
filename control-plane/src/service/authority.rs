//! The CAs of the cluster, and the change from one to the next.

use std::fmt::Display;
use std::time::SystemTime;

use loden_proto::InvalidValue;
use loden_proto::convert::{beyond, count, timestamp};
use loden_proto::names;
use loden_proto::reason::{self, Reason};
use loden_proto::v1::{self, AuthorityPhase, RotateAuthorityRequest, RotationStep};
use tonic::{Code, Status};

use super::Shared;
use crate::colleagues::Connections;
use crate::gate;
use crate::identity::{Phase, PkiError, Step};

/// Nodes that are named.
const NAMED: usize = 100;

/// How the CAs are, and how far the nodes of all replicas.
pub(super) async fn view(shared: &Shared) -> v1::Authority {
    let connections = shared.connections().await;
    let pki = shared.signer.pki();
    let authority = pki.authority();
    let generation = authority.generation();
    let (current, behind) = connections.by_generation(generation);
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
        nodes_current: count(current),
        nodes_behind: behind.iter().take(NAMED).map(|node| names::node(node)).collect(),
        nodes_behind_left_out: beyond(behind.len(), NAMED),
        retire_time: pki.previous_until(shared.signer.validity()).map(timestamp),
        replicas_unasked: connections.unasked_replicas().iter().cloned().collect(),
    }
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
    let (_alone, before) = match sharing {
        Some(sharing) => {
            let alone = sharing.alone().await;
            (Some(alone), sharing.begin(&shared.clerk, pki).await.map_err(failed)?)
        }
        None => (None, None),
    };
    if !request.force {
        would_shut_out(shared, step, now).await?;
    }
    pki.rotate(step, shared.signer.validity(), now).map_err(|error| match error {
        PkiError::Step { .. } => reason::status(Code::FailedPrecondition, Reason::InUse, error.to_string()),
        error => failed(error),
    })?;
    if let (Some(sharing), Some(before)) = (sharing, before) {
        sharing.share(&shared.clerk, pki, before).await.map_err(failed)?;
    }
    if step == Step::Retire {
        gate::end_who_is_out(shared, now);
    }
    Ok(view(shared).await)
}

fn failed(error: impl Display) -> Status {
    tracing::error!(%error, "the CA cannot be changed");
    Status::unavailable(format!("the CA cannot be changed: {error}"))
}

/// Whether somebody who is let in now would not be after a step.
async fn would_shut_out(shared: &Shared, step: Step, now: SystemTime) -> Result<(), Status> {
    let refuse = |message: String| Err(reason::status(Code::FailedPrecondition, Reason::InUse, message));
    let pki = shared.signer.pki();
    let authority = pki.authority();
    if step == Step::Prepare || authority.phase() != step.from() {
        return Ok(());
    }
    if let Some(behind) = behind(&shared.connections().await, authority.generation()) {
        return refuse(behind);
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

/// Who has, or may have, no certificate of a generation yet.
fn behind(connections: &Connections, generation: u32) -> Option<String> {
    let (_, behind) = connections.by_generation(generation);
    if let [first, others @ ..] = &behind[..] {
        return Some(format!(
            "{} and {} other nodes have not got another certificate yet; wait, or force it",
            names::node(first),
            others.len()
        ));
    }
    let replicas = connections.unasked()?;
    Some(format!(
        "there may be nodes that are connected with {replicas}, and have not got another certificate yet; wait for \
         an answer, or force it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colleagues::testing::connection;

    #[test]
    fn a_step_waits_for_the_nodes_of_all_replicas_and_for_replicas_that_are_silent() {
        let mut connections = Connections::default();
        assert_eq!(behind(&connections, 2), None);
        connections.add("control-2".to_owned(), Some(vec![connection("a", &[2], &[])]));
        assert_eq!(behind(&connections, 2), None);
        connections.add("control-3".to_owned(), None);
        let silent = behind(&connections, 2).unwrap();
        assert!(silent.contains("connected with the replica control-3, which does not answer"), "{silent}");
        connections.add("control-4".to_owned(), Some(vec![connection("b", &[1], &[])]));
        let told = behind(&connections, 2).unwrap();
        assert!(told.starts_with("nodes/b and 0 other nodes have not got another certificate yet"), "{told}");
    }
}
