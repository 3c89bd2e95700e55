//! Three replicas of the control plane: behind haproxy with the configuration that operators copy, behind nginx, and dialled
//! by agents that know all three.
//!
//! | file | shows |
//! |---|---|
//! | `killed.rs` | a replica that is killed costs nothing, whatever is in front of it |
//! | `rolling.rs` | all three are restarted under load, one after the other |
//! | `guarded.rs` | an etcd that wants TLS, a certificate and a password |
//! | `asked.rs` | a change of the CA waits for the nodes of all replicas |
//! | `copies.rs` | a copied disk or certificate is noticed by replicas that do not have its node |
//! | `unwritable.rs` | an etcd without a majority costs no stream |
//! | `shared.rs` | the CA is one, whoever changes it, and a state directory that is new is filled |
//!
//! Everything that goes wrong at once is `tests/chaos.rs`'s.

#![cfg(test)]

mod asked;
mod copies;
mod fleet;
mod guarded;
mod killed;
mod rolling;
mod shared;
mod unwritable;

use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::deployment::{ControlPlane, Replicated};
use loden_tests::wait;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// The pool of the fleet's network.
const POOL: &str = "10.244.0.0/16";

/// How many agents each replica serves; `None` of one that is down.
async fn streaming(site: &Replicated) -> anyhow::Result<[Option<usize>; 3]> {
    let mut streaming = [None; 3];
    for (count, replica) in streaming.iter_mut().zip(site.replicas()) {
        if replica.process.is_some() {
            *count = Some(metric(replica, "loden_streaming_leases").await?);
        }
    }
    Ok(streaming)
}

/// Waits until so many agents are served by somebody; answers how many by whom.
async fn everybody_is_served(site: &Replicated, agents: usize) -> anyhow::Result<[usize; 3]> {
    let served = wait::until("every agent to be served", SOON, async || {
        let streaming = streaming(site).await?.map(Option::unwrap_or_default);
        ensure!(streaming.iter().sum::<usize>() == agents, "{streaming:?}");
        Ok(streaming)
    });
    Ok(served.await?)
}

async fn metric(control: &ControlPlane, name: &str) -> anyhow::Result<usize> {
    let (_, text) = control.get("/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("/metrics has no {name}"))?;
    value.parse().with_context(|| format!("{name} is {value}"))
}
