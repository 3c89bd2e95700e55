//! Which interface the tunnels go over: a pure choice from what the host looks like.
//!
//! ```text
//! any of --iface, --iface-regex, --iface-can-reach given:
//!     all --iface in order ─▶ regexes ─▶ can-reach ─▶ the first that fits, or an error
//! none given: the default route with the lowest metric, IPv4 before IPv6
//! ```
//!
//! As in flannel, without its traps: metrics and several next hops are looked
//! at, `--public-ip` is only advertised and need not be a local address, and
//! the choice is made again when addresses change. An address that comes later, as the virtual ones of keepalived
//! or kube-vip, is not sent from as long as the one in use is there. A pattern does not match the bridges of pods, and
//! only who names the loopback device gets it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use loden_datapath::{DeviceName, HostFacts, Interface, InterfaceAddress, RouteLookup};
use loden_proto::model::{Family, check_underlay};
use regex::Regex;

use crate::conflist;

/// What the operator asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names or addresses of interfaces, in order of preference.
    pub names: Vec<String>,
    /// Patterns for addresses, then names, unanchored.
    pub patterns: Vec<Regex>,
    /// The interface over which this address is reached.
    pub can_reach: Option<IpAddr>,
    /// Advertised instead of the interface's IPv4 address.
    pub public_v4: Option<Ipv4Addr>,
    /// Advertised instead of the interface's IPv6 address.
    pub public_v6: Option<Ipv6Addr>,
}

impl Selection {
    fn is_default(&self) -> bool {
        self.names.is_empty() && self.patterns.is_empty() && self.can_reach.is_none()
    }
}

/// An interface, and the addresses on it to send from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The interface.
    pub device: DeviceName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// To send from; none without an IPv4 underlay.
    pub v4: Option<Ipv4Addr>,
    /// To send from; none without an IPv6 underlay.
    pub v6: Option<Ipv6Addr>,
    /// To be advertised where `v4` is there.
    pub public_v4: Option<Ipv4Addr>,
    /// To be advertised where `v6` is there.
    pub public_v6: Option<Ipv6Addr>,
    /// Why this one, for people.
    pub reason: String,
}

impl Choice {
    /// The addresses to send from.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)).collect()
    }
}

/// No interface fits.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct NoInterface {
    /// What was tried and what was wrong with it.
    pub tried: Vec<String>,
}

impl fmt::Display for NoInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no interface to send over: {}", self.tried.join("; "))
    }
}

/// What is known beside what the host looks like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The kernel's way to [`Selection::can_reach`].
    pub route: Option<&'a RouteLookup>,
    /// The addresses that were sent from so far: they stay where they are as good as any other.
    pub used: &'a [IpAddr],
    /// Where the addresses of pods are, and of their bridges.
    pub pods: &'a [IpNet],
}

/// Chooses.
///
/// # Errors
/// Nothing fits; the error says what was tried.
pub fn choose(selection: &Selection, facts: &HostFacts, known: Known<'_>) -> Result<Choice, NoInterface> {
    let mut tried = Vec::new();
    for candidate in candidates(selection, facts, known) {
        match candidate.and_then(|candidate| accept(selection, &candidate, known.used)) {
            Ok(choice) => return Ok(choice),
            Err(why) => tried.push(why),
        }
    }
    Err(NoInterface { tried })
}

struct Candidate<'a> {
    interface: &'a Interface,
    /// The address that was named, to be preferred in its family.
    named: Option<IpAddr>,
    reason: String,
}

type Tried<'a> = Result<Candidate<'a>, String>;

fn candidates<'a>(selection: &'a Selection, facts: &'a HostFacts, known: Known<'_>) -> Vec<Tried<'a>> {
    if selection.is_default() {
        return defaults(facts);
    }
    let names = selection.names.iter().map(|name| named(name, facts));
    let patterns = selection.patterns.iter().map(|pattern| matching(pattern, facts, known));
    let reach = selection.can_reach.map(|address| reaching(address, facts, known));
    names.chain(patterns).chain(reach).collect()
}

/// `--iface`: an address or a name.
fn named<'a>(name: &str, facts: &'a HostFacts) -> Tried<'a> {
    if let Ok(address) = name.parse::<IpAddr>() {
        let interface =
            facts.interface_with(address).ok_or_else(|| format!("no interface has the address {address}"))?;
        return Ok(Candidate { interface, named: Some(address), reason: format!("--iface {address}") });
    }
    let interface = facts.interfaces.iter().find(|interface| interface.name.as_str() == name);
    let interface = interface.ok_or_else(|| format!("there is no interface {name}"))?;
    Ok(Candidate { interface, named: None, reason: format!("--iface {name}") })
}

/// `--iface-regex`: all addresses first, then names, those in use before others; nothing of ours, no loopback and
/// no bridge of pods.
fn matching<'a>(pattern: &Regex, facts: &'a HostFacts, known: Known<'_>) -> Tried<'a> {
    let Known { used, pods, .. } = known;
    let of_pods = |address: &InterfaceAddress| pods.iter().any(|net| net.contains(&address.net.addr()));
    let foreign = || {
        let interfaces = facts.interfaces.iter();
        interfaces.filter(|interface| {
            !interface.ours && !interface.loopback && !conflist::is_bridge(interface.name.as_str())
        })
    };
    // The first of the least: among others the kernel's first one wins.
    let by_address = foreign()
        .flat_map(|interface| {
            let addresses = interface.addresses.iter();
            let usable = addresses.filter(|address| usable(address, interface) && !of_pods(address));
            usable.map(move |address| (interface, address.net.addr()))
        })
        .filter(|(_, address)| pattern.is_match(&address.to_string()))
        .min_by_key(|(_, address)| !used.contains(address))
        .map(|(interface, address)| (interface, Some(address)));
    let is_used =
        |interface: &Interface| interface.addresses.iter().any(|own| used.contains(&own.net.addr()));
    let by_name = || {
        let others = foreign().filter(|interface| !interface.addresses.iter().any(of_pods));
        let matches = others.filter(|interface| pattern.is_match(interface.name.as_str()));
        matches.min_by_key(|interface| !is_used(interface)).map(|interface| (interface, None))
    };
    let (interface, named) = by_address
        .or_else(by_name)
        .ok_or_else(|| format!("neither an address nor a name matches {pattern}"))?;
    Ok(Candidate { interface, named, reason: format!("--iface-regex {pattern}") })
}

/// `--iface-can-reach`: whatever the kernel would send over; for an address of this host, the interface that has it.
fn reaching<'a>(address: IpAddr, facts: &'a HostFacts, known: Known<'_>) -> Tried<'a> {
    let Known { route, used, .. } = known;
    let route = route.ok_or_else(|| format!("there is no route to {address}"))?;
    let interface = facts.interface(route.device);
    let mut interface = interface.ok_or_else(|| format!("{} to {address} is gone", route.device))?;
    if interface.loopback {
        let owner = facts.interface_with(address).filter(|owner| !owner.loopback);
        interface = owner.ok_or_else(|| format!("{address} is reached over {}", route.device))?;
    }
    let stays = |source: &IpAddr| {
        let mut others = interface.addresses.iter().map(|own| own.net.addr()).filter(|own| own != source);
        others.any(|own| used.contains(&own) && own.is_ipv4() == source.is_ipv4())
    };
    let named = route.source.filter(|source| !stays(source));
    Ok(Candidate { interface, named, reason: format!("--iface-can-reach {address}") })
}

/// The default routes, best first; with several next hops the first usable one.
fn defaults(facts: &HostFacts) -> Vec<Tried<'_>> {
    let mut routes: Vec<_> = facts.default_routes.iter().collect();
    // Stable: within a metric the kernel's order stays.
    routes.sort_by_key(|route| (route.family, route.metric));
    let tried: Vec<Tried<'_>> = routes
        .into_iter()
        .map(|route| {
            let interface = facts.interface(route.device);
            let interface =
                interface.ok_or_else(|| format!("{} of a default route is gone", route.device))?;
            let reason = format!("{} default route, metric {}", route.family, route.metric);
            Ok(Candidate { interface, named: None, reason })
        })
        .collect();
    if tried.is_empty() {
        vec![Err("there is no default route; name one with --iface".to_owned())]
    } else {
        tried
    }
}

fn accept(selection: &Selection, candidate: &Candidate<'_>, used: &[IpAddr]) -> Result<Choice, String> {
    let Candidate { interface, named, reason } = candidate;
    let name = interface.name;
    if interface.ours {
        return Err(format!("{name} is a tunnel of Loden"));
    }
    if !interface.up {
        return Err(format!("{name} is down"));
    }
    let best = |family| {
        let mut fitting: Vec<_> = interface
            .addresses
            .iter()
            .filter(|address| Family::of_net(address.net) == family && usable(address, interface))
            .collect();
        // Stable: among equals the kernel's first one wins.
        fitting.sort_by_key(|address| rank(address, *named, used));
        fitting.first().map(|address| address.net.addr())
    };
    let v4 = best(Family::V4).and_then(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let v6 = best(Family::V6).and_then(|address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    if v4.is_none() && v6.is_none() {
        return Err(format!("{name} has no address that others can send to"));
    }
    let public_v4 = selection.public_v4.or(v4).filter(|_| v4.is_some());
    let public_v6 = selection.public_v6.or(v6).filter(|_| v6.is_some());
    Ok(Choice { device: name, mtu: interface.mtu, v4, v6, public_v4, public_v6, reason: reason.clone() })
}

/// Whether peers could send to it. Loopback addresses only on the loopback
/// device, where somebody asked for them by name.
fn usable(address: &InterfaceAddress, interface: &Interface) -> bool {
    let ip = address.net.addr();
    let loopback = ip.is_loopback() && !interface.loopback;
    !address.tentative && !loopback && check_underlay(ip).is_none()
}

/// Lower is better.
fn rank(address: &InterfaceAddress, named: Option<IpAddr>, used: &[IpAddr]) -> impl Ord + use<> {
    let ip = address.net.addr();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(_) => false,
    };
    (
        named != Some(ip),
        address.deprecated,
        link_local || !address.global,
        !used.contains(&ip),
        // Mostly a virtual address, which moves from host to host.
        address.net.prefix_len() == Family::of(ip).bits(),
        address.secondary,
        !address.permanent,
    )
}

#[cfg(test)]
mod tests;
