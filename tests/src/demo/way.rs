//! The way of a packet, read from the kernel with the tools that an operator has.
//!
//! ```text
//! container: default route ─▶ host: route ─▶ gateway ─▶ neighbour ─▶ FDB ─▶ underlay route ─▶ the wire
//! ```

use std::fmt::Display;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use serde_json::value::Index;

use super::report::Hop;
use super::stage::Actor;
use crate::hosts::{Fabric, Namespace};
use crate::traffic::{Capture, Ping};

/// Follows a packet from one container to another; the last step is the packet itself, captured
/// on the fabric.
pub(super) async fn follow(from: &Actor, to: &Actor, fabric: &Fabric, port: u16) -> anyhow::Result<Vec<Hop>> {
    let (host, target) = (&from.node.host, to.container.address());
    let mut way = Vec::new();
    let first = ip(&from.container, &["route", "get", &target.to_string()])?;
    way.push(hop("route", &format!("container on {}", from.name()), &describe_route(&first[0])));

    let route = ip(host, &["route", "get", &target.to_string()])?.swap_remove(0);
    let device = field(&route, "dev")?;
    let gateway = field(&route, "gateway")?;
    way.push(hop("route", &format!("host {}", from.name()), &describe_route(&route)));

    let neighbours = ip(host, &["neigh", "show", &gateway, "dev", &device])?;
    let neighbour = neighbours.first().with_context(|| format!("{gateway} is no neighbour on {device}"))?;
    let mac = field(neighbour, "lladdr")?;
    way.push(hop(
        "neighbour",
        &device,
        &format!("{gateway} is at {mac} ({})", field(&neighbour["state"], 0)?.to_lowercase()),
    ));

    let entries = json(host, "bridge", &["-j", "fdb", "show", "dev", &device])?;
    let entry = entries.iter().find(|entry| entry["mac"] == mac.as_str());
    let underlay = field(entry.with_context(|| format!("{mac} is not in the FDB of {device}"))?, "dst")?;
    way.push(hop("FDB", &device, &format!("{mac} is behind {underlay}")));

    let outer = ip(host, &["route", "get", &underlay])?.swap_remove(0);
    way.push(hop("underlay", &format!("host {}", from.name()), &describe_route(&outer)));
    way.push(hop("wire", "fabric", &capture(from, target, fabric, port).await?));
    Ok(way)
}

/// Catches one echo request on the fabric and reads its headers (RFC 7348 §5).
async fn capture(from: &Actor, target: IpAddr, fabric: &Fabric, port: u16) -> anyhow::Result<String> {
    let is_vxlan = move |frame: &[u8]| outer(frame).is_some_and(|outer| outer.port == port);
    // Ports of the segment are called HOST-NIC.
    let capture = Capture::start(fabric, &format!("{}-eth0", from.name()), is_vxlan).await?;
    let ping = Ping::to(target).interval(Duration::from_millis(50)).start(&from.container)?;
    let frames = capture.wait(1, Duration::from_secs(5)).await;
    ping.stop().await?;
    let frame = frames?.into_iter().next().context("no frame was captured")?;
    let outer = outer(&frame.bytes).context("the captured frame is no VXLAN")?;
    Ok(format!(
        "{} → {}, UDP {} → {}, VNI {}, {} bytes",
        outer.source,
        outer.destination,
        outer.source_port,
        outer.port,
        outer.vni,
        frame.bytes.len()
    ))
}

struct Outer {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    port: u16,
    vni: u32,
}

fn outer(frame: &[u8]) -> Option<Outer> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination) = match sliced.net.as_ref()? {
        etherparse::NetSlice::Ipv4(v4) => {
            (v4.header().source_addr().into(), v4.header().destination_addr().into())
        }
        etherparse::NetSlice::Ipv6(v6) => {
            (v6.header().source_addr().into(), v6.header().destination_addr().into())
        }
        etherparse::NetSlice::Arp(_) => return None,
    };
    let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport.as_ref() else { return None };
    let [8, _, _, _, a, b, c, _] = *udp.payload().first_chunk::<8>()? else { return None };
    Some(Outer {
        source,
        destination,
        source_port: udp.source_port(),
        port: udp.destination_port(),
        vni: u32::from_be_bytes([0, a, b, c]),
    })
}

fn hop(what: &str, place: &str, found: &str) -> Hop {
    Hop { what: what.to_owned(), place: place.to_owned(), found: found.to_owned() }
}

fn describe_route(route: &Value) -> String {
    let text = |key: &str| route[key].as_str().unwrap_or("?");
    let via = route["gateway"].as_str().map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    format!("{}{via} dev {} src {}", text("dst"), text("dev"), text("prefsrc"))
}

fn field<K: Index + Display + Copy>(object: &Value, key: K) -> anyhow::Result<String> {
    object[key].as_str().map(ToOwned::to_owned).with_context(|| format!("no {key} in {object}"))
}

fn ip(namespace: &Namespace, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let found = json(namespace, "ip", &[&["-j"], arguments].concat())?;
    ensure!(!found.is_empty(), "ip {} found nothing", arguments.join(" "));
    Ok(found)
}

fn json(namespace: &Namespace, program: &str, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let output = namespace.enter(|| Command::new(program).args(arguments).output());
    let output = output.with_context(|| format!("could not run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{program} printed no JSON"))
}
