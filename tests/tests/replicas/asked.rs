//! What a replica tells or does is of the nodes of all: it asks the others, and one that is silent is no empty one.

use std::path::Path;

use anyhow::{Context, ensure};
use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_proto::v1::{Authority, AuthorityPhase, GetAuthorityRequest, RotateAuthorityRequest, RotationStep};
use loden_tests::client::Identities;
use loden_tests::deployment::Replicated;
use loden_tests::wait;
use nix::sys::signal::Signal;
use tonic::Code;
use tonic::transport::Channel;

use crate::fleet::Fleet;
use crate::{SOON, everybody_is_served};

const AGENTS: u8 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_ca_waits_for_the_nodes_of_all_replicas() -> anyhow::Result<()> {
    let site = Replicated::start("asked", &[]).await?;
    let _fleet = Fleet::start(&site.deployment, AGENTS).await?;
    everybody_is_served(&site, AGENTS.into()).await?;
    let directory = site.deployment.lab.directory().join("identities");
    let admin = Identities::of(&site.deployment.control, &directory)?.admin("asked")?;

    all_are_current_at_each(&site, &admin, AuthorityPhase::Steady).await?;
    rotate(&site, &admin, RotationStep::Prepare).await.context("nobody is shut out by that")?;
    all_are_current_at_each(&site, &admin, AuthorityPhase::Prepared).await?;

    let silent = site.replicas()[2].process.as_ref().context("it runs")?;
    silent.signal(Signal::SIGSTOP)?;
    let refused = rotate(&site, &admin, RotationStep::Issue).await;
    silent.signal(Signal::SIGCONT)?;
    let refused = refused.err().context("a replica did not say which nodes it has")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused}");
    ensure!(refused.message().contains("the replica control3, which does not answer"), "{refused}");

    all_are_current_at_each(&site, &admin, AuthorityPhase::Prepared).await?;
    rotate(&site, &admin, RotationStep::Issue).await.context("all have the certificate of before")?;
    all_are_current_at_each(&site, &admin, AuthorityPhase::Issuing).await
}

async fn at(
    site: &Replicated,
    replica: usize,
    admin: &Path,
) -> anyhow::Result<IdentityServiceClient<Channel>> {
    Ok(IdentityServiceClient::new(site.channel_past(replica, admin).await?))
}

async fn rotate(site: &Replicated, admin: &Path, step: RotationStep) -> Result<Authority, tonic::Status> {
    let client = at(site, 0, admin).await;
    let mut client = client.map_err(|error| tonic::Status::internal(format!("{error:#}")))?;
    let request = RotateAuthorityRequest { step: step.into(), force: false };
    client.rotate_authority(request).await.map(tonic::Response::into_inner)
}

/// Waits until each replica says that the nodes of all have a certificate of the present generation.
async fn all_are_current_at_each(
    site: &Replicated,
    admin: &Path,
    phase: AuthorityPhase,
) -> anyhow::Result<()> {
    for replica in 0..site.replicas().len() {
        let client = at(site, replica, admin).await?;
        let current = wait::until("all nodes to be current", SOON * 3, async || {
            let authority = client.clone().get_authority(GetAuthorityRequest {}).await?.into_inner();
            let is_all = authority.nodes_current == u32::from(AGENTS) && authority.nodes_behind.is_empty();
            let is_sure = authority.replicas_unasked.is_empty();
            ensure!(authority.phase() == phase && is_all && is_sure, "at {replica}: {authority:?}");
            anyhow::Ok(())
        });
        current.await?;
    }
    Ok(())
}
