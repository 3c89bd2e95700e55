//! Bad input to the running programs: each is refused at the door, with its canonical code and a
//! message that names field, value and rule, and nothing has changed.

#![cfg(test)]

mod call;
mod programs;
mod roles;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::StatusCode;
use loden_proto::reason;
use loden_proto::v1::{
    self, lease_service_client::LeaseServiceClient, network::Backend,
    network_service_client::NetworkServiceClient,
};
use loden_tests::{client, deployment::Deployment, wait};
use tonic::{Code, transport::Channel};

use crate::call::{acquire, acquire_request, acquire_v4, create, pool};
use crate::table::{As, Bad};

const SOON: Duration = Duration::from_secs(30);

/// A control plane with what the bad requests collide with.
struct World {
    deployment: Deployment,
    admin: Channel,
    a: Channel,
    b: Channel,
}

impl World {
    async fn start(name: &str) -> anyhow::Result<Self> {
        let deployment = Deployment::start(name, &[]).await?;
        let admin = deployment.control.channel(&deployment.control.admin_identity()).await?;
        let mut networks = NetworkServiceClient::new(admin.clone());
        let vxlan = |port, gbp| Backend::Vxlan(v1::VxlanBackend { port, gbp, ..Default::default() });
        for (name, cidr, vni, backend, request_id) in [
            ("networks/default", "10.244.0.0/16", Some(100), vxlan(None, false), "used"),
            ("networks/small", "10.9.0.0/22", None, vxlan(None, false), ""),
            ("networks/policy", "10.8.0.0/16", None, vxlan(Some(4789), true), ""),
            ("networks/addresses", "10.7.0.0/16", None, Backend::Alloc(v1::AllocBackend {}), ""),
            ("networks/tunnel", "10.6.0.0/16", Some(106), Backend::Udp(v1::UdpBackend::default()), ""),
        ] {
            let (pools, backend) = (vec![pool(cidr, None)], Some(backend));
            let network = v1::Network { name: name.into(), pools, vni, backend, ..Default::default() };
            let request_id = request_id.into();
            networks.create_network(v1::CreateNetworkRequest { network: Some(network), request_id }).await?;
        }
        let a = node(&deployment, "a").await?;
        let b = node(&deployment, "b").await?;
        // Twice, by two instances: there is an old epoch.
        for instance in 0x0b..=0x0c {
            let request = acquire_request(0x0a, |request| {
                request.instance_id = format!("{instance:031x}a");
                request.claim = vec!["10.244.7.0/24".into()];
            });
            LeaseServiceClient::new(a.clone()).acquire_lease(request).await?;
        }
        // All that there is: the first of four subnets is never given out.
        for (number, name) in (0x14..).zip(["x", "y", "z"]) {
            let request = acquire_request(number, |request| {
                request.network = "networks/small".into();
                request.endpoint.get_or_insert_default().receivers.clear();
            });
            LeaseServiceClient::new(node(&deployment, name).await?).acquire_lease(request).await?;
        }
        Ok(Self { deployment, admin, a, b })
    }

    fn channel(&self, who: As) -> Channel {
        match who {
            As::Admin => &self.admin,
            As::A => &self.a,
            As::B => &self.b,
        }
        .clone()
    }

    /// The store's revision: what was refused has not moved it.
    async fn revision(&self) -> anyhow::Result<u64> {
        let request = v1::ListNetworksRequest::default();
        let listed = NetworkServiceClient::new(self.admin.clone()).list_networks(request).await?;
        Ok(listed.into_inner().revision)
    }
}

fn identity(deployment: &Deployment, name: &str) -> PathBuf {
    deployment.lab.directory().join(format!("identity-{name}"))
}

async fn node(deployment: &Deployment, name: &str) -> anyhow::Result<Channel> {
    let identity = identity(deployment, name);
    deployment.control.issue("node", name, &identity).await?;
    deployment.control.channel(&identity).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_request_has_its_code_and_names_field_value_and_rule() -> anyhow::Result<()> {
    let world = World::start("bad").await?;
    let before = world.revision().await?;
    let all = table::all();
    let (count, mut wrong) = (all.len(), Vec::new());
    for Bad { who, call, code, reason, says } in all {
        let shown = format!("{who:?} {call:?}");
        let Err(status) = call.send(world.channel(who)).await else {
            wrong.push(format!("{shown}\n    was accepted"));
            continue;
        };
        let missing: Vec<_> = says.iter().filter(|part| !status.message().contains(**part)).collect();
        let told = reason::of(&status);
        if status.code() != code || told.as_deref() != Some(reason.as_str()) || !missing.is_empty() {
            wrong.push(format!(
                "{shown}\n    got {:?} {told:?} {:?}\n    not {code:?} {reason:?}, without {missing:?}",
                status.code(),
                status.message()
            ));
        }
    }
    ensure!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} bad requests refused");
    ensure!(world.revision().await? == before, "something was written");

    // It was what was changed of them that was refused.
    create(|_| ()).send(world.admin.clone()).await?;
    acquire(|_| ()).send(world.b.clone()).await?;
    ensure!(world.revision().await? > before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_underlay_is_accepted_where_that_is_configured() -> anyhow::Result<()> {
    let deployment = Deployment::start("loopback", &["--allow-loopback-underlay"]).await?;
    deployment.lodenctl(&["network", "create", "default", "--pool", "10.244.0.0/16", "--vni", "100"]).await?;
    acquire_v4("127.0.0.5").send(node(&deployment, "b").await?).await?;
    let refused = acquire_v4("0.0.0.0").send(node(&deployment, "c").await?).await;
    ensure!(refused.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vni_that_cools_down_or_is_not_there_is_refused() -> anyhow::Result<()> {
    let deployment = Deployment::start("vnis", &["--vni-range", "5-5"]).await?;
    let admin = deployment.control.channel(&deployment.control.admin_identity()).await?;
    deployment.create_network("first", "10.244.0.0/16").await?;
    let exhausted = create(|_| ()).send(admin.clone()).await.expect_err("5 is taken");
    ensure!(exhausted.code() == Code::ResourceExhausted, "{exhausted}");
    ensure!(exhausted.message().contains("5 to 5"), "{exhausted}");
    deployment.lodenctl(&["network", "delete", "first"]).await?;
    let cooling =
        create(|network| network.vni = Some(5)).send(admin.clone()).await.expect_err("5 cools down");
    ensure!(cooling.code() == Code::FailedPrecondition, "{cooling}");
    for part in ["network.vni", "\"5\"", "given back by networks/first", "cools down"] {
        ensure!(cooling.message().contains(part), "{cooling} lacks {part}");
    }
    ensure!(reason::retry_after(&cooling).is_some_and(|after| after > SOON), "{cooling:?}");
    create(|network| network.vni = Some(6)).send(admin).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_whose_underlay_a_pool_lies_is_told_so() -> anyhow::Result<()> {
    let deployment = Deployment::start("over", &[]).await?;
    deployment.create_network("default", "192.0.0.0/16").await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    let said = wait::until("the agent to say why", SOON, async || {
        let (status, body) = a.get("/readyz").await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {body}");
        ensure!(body.contains("OVERLAPS_UNDERLAY"), "{body}");
        Ok::<_, anyhow::Error>(body)
    });
    let said = said.await?;
    ensure!(said.contains("192.0.0.0/16") && said.contains("192.0.2.11"), "{said}");
    ensure!(!a.subnet_file().exists());
    let links = a.host.links().await?;
    ensure!(links.len() == 2, "lo and eth0: {links:?}");
    Ok(())
}

/// The host's own address is not in the pool, but its neighbours' would be.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_gets_no_lease_of_a_pool_inside_its_underlays_prefix() -> anyhow::Result<()> {
    let deployment = Deployment::start("inside", &[]).await?;
    deployment.create_network("default", "192.0.2.128/25:28").await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    let said = wait::until("the agent to say why", SOON, async || {
        let (_, body) = a.get("/readyz").await?;
        ensure!(body.contains("OVERLAPS_UNDERLAY"), "{body}");
        Ok::<_, anyhow::Error>(body)
    });
    let said = said.await?;
    ensure!(said.contains("192.0.2.128/25") && said.contains("underlay prefix 192.0.2.0/24"), "{said}");
    let admin = deployment.control.channel(&deployment.control.admin_identity()).await?;
    ensure!(client::leases(&admin).await?.is_empty(), "it was given a lease");
    Ok(())
}

/// The exit code, and whether standard error has all of these.
fn told(output: &std::process::Output, code: i32, says: &[&str]) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{}, not {code}: {said}", output.status);
    let missing: Vec<_> = says.iter().filter(|part| !said.contains(**part)).collect();
    ensure!(missing.is_empty(), "without {missing:?}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lodenctl_says_what_the_control_plane_said() -> anyhow::Result<()> {
    let world = World::start("ctl").await?;
    let lines: &[(&str, i32, &[&str])] = &[
        (
            "network create new --pool 10.50.0.1/16",
            1,
            &["network.pools[0].cidr", "\"10.50.0.1/16\"", "host bits"],
        ),
        ("network create new --pool 10.50.0.0/16 --vni 0", 1, &["network.vni", "\"0\"", "1 to 16777215"]),
        (
            "network create new --pool 10.50.0.0/16 --vni 100",
            1,
            &["network.vni", "\"100\"", "networks/default"],
        ),
        ("network create new --pool 10.50.0.0/16 --mtu 40", 1, &["network.mtu", "\"40\"", "576 to 65485"]),
        ("network create new --pool 10.50.0.0/16 --port 70000", 1, &["network.vxlan.port", "\"70000\""]),
        (
            "network create new --pool 10.50.0.0/16 --backend udp --port 8472",
            1,
            &["network.udp.port", "\"8472\"", "networks/default", "networks/new"],
        ),
        ("network create New --pool 10.50.0.0/16", 1, &["network.name", "\"New\"", "DNS label"]),
        ("network create default --pool 10.50.0.0/16", 1, &["networks/default exists already"]),
        ("network create new --pool 10.50.0.0/16:31", 1, &["node_prefix_len", "\"31\"", "must be 18 to 30"]),
        ("network delete default", 1, &["networks/default", "force"]),
        ("network get nowhere", 3, &["networks/nowhere does not exist"]),
        ("lease release default nobody", 3, &["networks/default/leases/nobody does not exist"]),
        (
            "reservation create default b 10.244.0.0/24",
            1,
            &["subnets[0]", "\"10.244.0.0/24\"", "never given out"],
        ),
        ("peers watch nowhere", 3, &["networks/nowhere"]),
        // What is wrong with the line itself does not go to the control plane.
        ("network create new --pool 10.50.0.0", 2, &["--pool", "10.50.0.0", "CIDR"]),
        ("network create new --pool 10.50.0.0/16 --vni -1", 2, &["-1"]),
        ("network create new --pool 10.50.0.0/16 --vni many", 2, &["--vni", "many"]),
        ("network create new", 2, &["--pool"]),
        ("network create new --pool 10.50.0.0/16 --udp-offload gso", 2, &["--udp-offload", "gso", "uso"]),
        ("network create new --pool 10.50.0.0/16 --udp-single-sends", 2, &["--udp-single-sends", "udp"]),
        ("network update default --udp-offload tso", 2, &["--udp-offload", "default", "vxlan", "not udp"]),
        ("network create new --pol 10.50.0.0/16", 2, &["--pol", "--pool"]),
        ("netwrok list", 2, &["netwrok", "network"]),
    ];
    for (line, code, says) in lines {
        let words: Vec<_> = line.split(' ').collect();
        let output = world.deployment.run_lodenctl(&words).await?;
        told(&output, *code, says).with_context(|| format!("lodenctl {line}"))?;
        ensure!(
            output.stdout.is_empty(),
            "lodenctl {line} printed {:?}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}
