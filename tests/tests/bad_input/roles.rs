//! Who may not do what, whatever they send.

use anyhow::ensure;
use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_transport::Bundle;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tonic::{Code, Status};

use crate::call::{Call, acquire, create, endpoint, reserve, update};
use crate::{World, identity};

const A: &str = "networks/default/leases/a";

fn denied(result: Result<(), Status>, says: &[&str], shown: &str) -> anyhow::Result<()> {
    let Err(status) = result else { anyhow::bail!("{shown} was allowed") };
    ensure!(status.code() == Code::PermissionDenied, "{shown}: {status}");
    ensure!(Reason::NotAllowed.is_of(&status), "{shown}: {:?}", reason::of(&status));
    let missing: Vec<_> = says.iter().filter(|part| !status.message().contains(**part)).collect();
    ensure!(missing.is_empty(), "{shown}: {} lacks {missing:?}", status.message());
    Ok(())
}

fn lease_of_a() -> Call {
    Call::GetLease(A)
}

fn on_lease_of_a() -> [Call; 4] {
    [
        Call::RenewLease(v1::RenewLeaseRequest { name: A.into(), epoch: 1 }),
        Call::UpdateEndpoint(v1::UpdateEndpointRequest {
            name: A.into(),
            epoch: 1,
            endpoint: Some(endpoint(0x0b)),
        }),
        Call::ReleaseLease(v1::ReleaseLeaseRequest { name: A.into(), epoch: 1 }),
        lease_of_a(),
    ]
}

fn for_admins() -> [Call; 6] {
    [
        create(|_| ()),
        update("mtu", |_| ()),
        Call::DeleteNetwork("networks/default"),
        reserve(|_| ()),
        Call::DeleteReservation("networks/default/reservations/b"),
        Call::ReleaseLease(v1::ReleaseLeaseRequest { name: A.into(), epoch: 0 }),
    ]
}

fn for_readers() -> [Call; 7] {
    [
        Call::GetNetwork("networks/default"),
        Call::ListNetworks(v1::ListNetworksRequest::default()),
        Call::ListLeases(v1::ListLeasesRequest { parent: "networks/-".into(), ..Default::default() }),
        Call::ListReservations("networks/-"),
        Call::GetNode("nodes/a"),
        Call::ListNodes,
        Call::GetClusterStatus,
    ]
}

fn for_nodes() -> [Call; 4] {
    let [renew, publish, _, _] = on_lease_of_a();
    let report = v1::ReportStatusRequest { network: "networks/default".into(), ..Default::default() };
    [acquire(|_| ()), renew, publish, Call::ReportStatus(report)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_do_only_what_is_its_own() -> anyhow::Result<()> {
    let world = World::start("roles").await?;
    let control = &world.deployment.control;
    let reader = identity(&world.deployment, "reader");
    control.issue("reader", "looker", &reader).await?;
    let reader = control.channel(&reader).await?;
    let before = world.revision().await?;

    for call in on_lease_of_a() {
        let shown = format!("{call:?}");
        let says = ["spiffe://demo/node/b may not call", "for node \"a\"", "for itself"];
        denied(call.send(world.b.clone()).await, &says, &shown)?;
    }
    for call in for_admins() {
        let shown = format!("{call:?}");
        if !matches!(call, Call::ReleaseLease(_)) {
            denied(call.clone().send(world.b.clone()).await, &["node/b may not call", "an admin"], &shown)?;
        }
        denied(call.send(reader.clone()).await, &["reader/looker may not call", "an admin"], &shown)?;
    }
    for call in for_readers() {
        let shown = format!("{call:?}");
        denied(call.clone().send(world.b.clone()).await, &["node/b may not call", "reader"], &shown)?;
        call.send(reader.clone()).await?;
    }
    for call in for_nodes() {
        let shown = format!("{call:?}");
        let says = ["admin/admin may not call", "a node, for itself"];
        denied(call.clone().send(world.admin.clone()).await, &says, &shown)?;
        denied(call.send(reader.clone()).await, &["reader/looker may not call"], &shown)?;
    }
    ensure!(world.revision().await? == before, "something was written");
    lease_of_a().send(world.a.clone()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_certificate_never_acts_as_a_client() -> anyhow::Result<()> {
    let world = World::start("server").await?;
    let control = &world.deployment.control;
    let pki = control.state.join("pki");

    // The server's own, as somebody who broke into it would use it: TLS refuses it.
    let refused = match control.channel(&pki.join("server")).await {
        Ok(channel) => lease_of_a().send(channel).await.map_err(|status| format!("{status:?}")),
        Err(error) => Err(format!("{error:#}")),
    };
    let Err(said) = refused else { anyhow::bail!("the server's certificate read a lease") };
    ensure!(said.contains("the server refused our certificate: it is not made for this use"), "{said}");

    // One that TLS lets through, made with the CA's key: the table of roles refuses it.
    let made = |uri: &str| -> anyhow::Result<_> {
        let ca = std::fs::read_to_string(pki.join("ca.crt"))?;
        let issuer = KeyPair::from_pem(&std::fs::read_to_string(pki.join("ca.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&ca, issuer)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Bundle::from_pem(ca, certificate.pem(), key.serialize_pem())?)
    };
    let directory = identity(&world.deployment, "both");
    made("spiffe://demo/control-plane/control-plane")?.write(&directory)?;
    let channel = control.channel(&directory).await?;
    for call in for_readers().into_iter().chain(for_admins()).chain(for_nodes()) {
        let shown = format!("{call:?}");
        denied(call.send(channel.clone()).await, &["control-plane may not call"], &shown)?;
    }
    Ok(())
}
