//! The way of a packet, read from the kernel with the tools that an operator has.
//!
//! ```text
//! container: default route ─▶ host: route ─┬─▶ gateway ─▶ neighbour ─▶ FDB ─▶ underlay route ─┬─▶ the wire
//!                                         ├─▶ gateway ─▶ neighbour ──── (host-gw) ────────────┤
//!                                         └─▶ tunnel ──── (UDP) ────▶ underlay route ─────────┘
//! ```

use std::fmt::Display;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use serde_json::value::Index;

use super::backend::Backend;
use super::report::{Hop, HostFacts};
use super::stage::Actor;
use crate::hosts::{Fabric, Namespace};
use crate::traffic::{Capture, Ping};

/// From where to where, and how.
pub(super) struct Way<'a> {
    pub(super) from: &'a Actor,
    pub(super) to: &'a Actor,
    pub(super) fabric: &'a Fabric,
    pub(super) backend: Backend,
}

impl Way<'_> {
    /// Follows a packet from one container to another; the last step is the packet itself, captured
    /// on the fabric.
    pub(super) async fn follow(&self, receiver: &HostFacts) -> anyhow::Result<Vec<Hop>> {
        let (host, target) = (&self.from.node.host, self.to.container.address());
        let place = format!("host {}", self.from.name());
        let first = ip(&self.from.container, &["route", "get", &target.to_string()])?;
        let mut way =
            vec![hop("route", &format!("container on {}", self.from.name()), &describe_route(&first[0]))];
        let route = ip(host, &["route", "get", &target.to_string()])?.swap_remove(0);
        let device = field(&route, "dev")?;
        way.push(hop("route", &place, &describe_route(&route)));
        let underlay = match self.backend {
            Backend::Vxlan => {
                let gateway = field(&route, "gateway")?;
                let mac = neighbour(host, &gateway, &device, &mut way)?;
                let entries = json(host, "bridge", &["-j", "fdb", "show", "dev", &device])?;
                let entry = entries.iter().find(|entry| entry["mac"] == mac.as_str());
                let entry = entry.with_context(|| format!("{mac} is not in the FDB of {device}"))?;
                let underlay = field(entry, "dst")?;
                way.push(hop("FDB", &device, &format!("{mac} is behind {underlay}")));
                Some(underlay)
            }
            Backend::HostGw => {
                neighbour(host, &field(&route, "gateway")?, &device, &mut way)?;
                None
            }
            Backend::Udp => {
                let HostFacts { subnet, underlay, receives, .. } = receiver;
                way.push(hop("tunnel", &device, &format!("{subnet} is behind {underlay}, {receives}")));
                Some(underlay.clone())
            }
        };
        if let Some(underlay) = underlay {
            let outer = ip(host, &["route", "get", &underlay])?.swap_remove(0);
            way.push(hop("underlay", &place, &describe_route(&outer)));
        }
        way.push(hop("wire", "fabric", &self.capture(target).await?));
        Ok(way)
    }

    /// Catches one echo request on the fabric and reads its headers.
    async fn capture(&self, target: IpAddr) -> anyhow::Result<String> {
        let backend = self.backend;
        let is_it = move |frame: &[u8]| describe_frame(frame, backend, target).is_some();
        // Ports of the segment are called HOST-NIC.
        let capture = Capture::start(self.fabric, &format!("{}-eth0", self.from.name()), is_it).await?;
        let ping = Ping::to(target).interval(Duration::from_millis(50)).start(&self.from.container)?;
        let frames = capture.wait(1, Duration::from_secs(5)).await;
        ping.stop().await?;
        let frame = frames?.into_iter().next().context("no frame was captured")?;
        describe_frame(&frame.bytes, backend, target).context("the captured frame is another one")
    }
}

/// Notes who has the address of a next hop; answers the MAC address.
fn neighbour(host: &Namespace, gateway: &str, device: &str, way: &mut Vec<Hop>) -> anyhow::Result<String> {
    let neighbours = ip(host, &["neigh", "show", gateway, "dev", device])?;
    let neighbour = neighbours.first().with_context(|| format!("{gateway} is no neighbour on {device}"))?;
    let mac = field(neighbour, "lladdr")?;
    let state = field(&neighbour["state"], 0)?.to_lowercase();
    way.push(hop("neighbour", device, &format!("{gateway} is at {mac} ({state})")));
    Ok(mac)
}

/// What is on the wire, if it is what a backend sends of a ping (RFC 7348, 5; docs/udp-tunnel.md).
fn describe_frame(frame: &[u8], backend: Backend, target: IpAddr) -> Option<String> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref()? {
        etherparse::NetSlice::Ipv4(v4) => {
            (v4.header().source_addr().into(), v4.header().destination_addr().into())
        }
        etherparse::NetSlice::Ipv6(v6) => {
            (v6.header().source_addr().into(), v6.header().destination_addr().into())
        }
        etherparse::NetSlice::Arp(_) => return None,
    };
    let (way, bytes) = (format!("{source} → {destination}"), frame.len());
    match (backend, sliced.transport.as_ref()?) {
        (Backend::HostGw, etherparse::TransportSlice::Icmpv4(_)) if destination == target => {
            Some(format!("{way}, ICMP, {bytes} bytes"))
        }
        (Backend::Vxlan | Backend::Udp, etherparse::TransportSlice::Udp(udp)) => {
            let vni = match (backend, udp.payload().first_chunk::<8>()?) {
                (Backend::Vxlan, [8, _, _, _, a, b, c, _]) => [0, *a, *b, *c],
                // Version 1, and no word of the tunnel itself.
                (Backend::Udp, [0x10 | 0x11, a, b, c, ..]) => [0, *a, *b, *c],
                _ => return None,
            };
            let (from, to, vni) = (udp.source_port(), udp.destination_port(), u32::from_be_bytes(vni));
            Some(format!("{way}, UDP {from} → {to}, VNI {vni}, {bytes} bytes"))
        }
        _ => None,
    }
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
