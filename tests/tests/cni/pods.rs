//! What containers do to each other, and what they may leave on a host.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::{
    hosts::{Host, Namespace},
    traffic::Ping,
};
use netlink_packet_route::link::LinkAttribute;

use crate::SOON;

/// Serves its name on a TCP port of a namespace, in both families, as long as the test runs.
pub(crate) fn serve(pod: &Namespace, port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = pod.enter(|| TcpListener::bind(address)).context("could not listen")?;
    let name = pod.name().to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever went away meanwhile needs no answer.
            let _ = { stream }.write_all(name.as_bytes());
        }
    });
    Ok(())
}

/// Asks who serves there.
pub(crate) fn who(from: &Namespace, address: SocketAddr) -> anyhow::Result<String> {
    let mut name = String::new();
    let connected = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)));
    let mut stream = connected.with_context(|| format!("{} does not reach {address}", from.full_name()))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.read_to_string(&mut name)?;
    Ok(name)
}

/// Pings each address until one answer is there, and then a little longer: nothing is lost any more.
pub(crate) async fn reaches(from: &Namespace, addresses: &[IpAddr]) -> anyhow::Result<()> {
    for address in addresses {
        let first = Ping::to(*address).start(from)?;
        first.reach(SOON).await?;
        drop(first);
        let ping = Ping::to(*address).interval(Duration::from_millis(5)).start(from)?;
        for _ in 0..20 {
            ping.reach(SOON).await?;
        }
        let report = ping.stop().await?;
        ensure!(report.lost() == 0, "{} to {address}: {report}", from.full_name());
    }
    Ok(())
}

/// The names of a host's links.
pub(crate) async fn links(host: &Host) -> anyhow::Result<BTreeSet<String>> {
    let links = host.links().await?;
    let names = links.into_iter().flat_map(|link| link.attributes).filter_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    Ok(names.collect())
}

/// The rules of a host that lead its ports to containers.
pub(crate) fn published(host: &Host) -> anyhow::Result<Vec<String>> {
    let mut rules = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let output = host.enter(|| Command::new(program).args(["-t", "nat"]).output());
        let output = output.with_context(|| format!("could not run {program}"))?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        rules.extend(text.lines().filter(|line| line.contains("-j DNAT")).map(str::to_owned));
    }
    Ok(rules)
}
