//! The difference between two states of a kernel, in an order that is safe.
//!
//! ```text
//!  devices ─▶ settings ─▶ up ─▶ addresses ─▶ set: FDB, neighbours, tunnels ─▶ remotes ─▶ (evict,) routes
//!                                                                                            │
//!                                                       unset: routes, neighbours, FDB ◀─────┘
//! ```
//!
//! What a route leans on exists before it is set and after it is unset. What
//! changes is replaced, never removed and added: a peer that moves loses no
//! packet.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use loden_proto::model::Mtu;

use crate::name::DeviceName;
use crate::step::{Change, Step};
use crate::tables::{
    AddressKey, BLACKHOLE_METRIC, Device, FdbEntry, Kind, Lifetime, PROTOCOL, Rival, RouteKey, Tables, Vxlan,
    metric,
};

/// Steps in the order in which they are to be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps, taken out.
    #[must_use]
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The plan without whatever removes something: for a start from a peer
    /// set that may be old, when nothing may be deleted yet.
    ///
    /// A device that would have to be created again is left as it is, and the
    /// creation with it: the kernel would refuse it.
    #[must_use]
    pub fn without_removals(self) -> Self {
        let gone: BTreeSet<DeviceName> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::DeleteDevice(device) => Some(*device),
                _ => None,
            })
            .collect();
        // In the place of a rival ours is set: it is no removal.
        let places: BTreeSet<RouteKey> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::SetRoute(key, _) | Step::SetBlackhole(key) => Some(*key),
                _ => None,
            })
            .collect();
        let mut steps = self.steps;
        steps.retain(|step| {
            let removes = match step {
                Step::Evict(rival) => !places.contains(&rival.key),
                step => matches!(
                    step,
                    Step::DeleteDevice(_)
                        | Step::UnsetAddress(_)
                        | Step::UnsetFdb(_)
                        | Step::UnsetNeighbour(_)
                        | Step::UnsetRemote(_)
                        | Step::UnsetRoute(..)
                        | Step::UnsetBlackhole(_)
                ),
            };
            !removes && step.device().is_none_or(|device| !gone.contains(&device))
        });
        Self { steps }
    }
}

impl FromIterator<Step> for Plan {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self { steps: steps.into_iter().collect() }
    }
}

/// What turns `actual` into `desired`.
///
/// Both may be parts, for example the entries of the peers that changed: then
/// the plan is about these entries only.
#[must_use]
pub fn plan(actual: &Tables, desired: &Tables) -> Plan {
    let mut steps = Vec::new();
    // What the kernel will hold after the steps so far.
    let mut kept = std::borrow::Cow::Borrowed(actual);

    if actual.devices != desired.devices {
        let begin = steps.len();
        plan_devices(actual, desired, &mut steps);
        for step in &steps[begin..] {
            // Creations and most changes touch no other table.
            if matches!(
                step,
                Step::DeleteDevice(_)
                    | Step::ChangeDevice(_, Change::Mac(_) | Change::Mtu(_) | Change::Detach)
            ) {
                step.apply(kept.to_mut());
            }
        }
    }
    let ups = split_off_ups(&mut steps);
    steps.extend(set(&kept.sysctls, &desired.sysctls).map(|(key, value)| Step::SetSysctl(*key, *value)));
    steps.extend(ups);

    let addresses = plan_addresses(&kept.addresses, &desired.addresses);
    if addresses.iter().any(|step| matches!(step, Step::UnsetAddress(_))) {
        let kept = kept.to_mut();
        addresses.iter().for_each(|step| step.apply(kept));
    }
    steps.extend(addresses);

    // The kernel says yes to a destination for what leads to a group of next hops, and does nothing.
    let groups =
        set(&kept.fdb, &desired.fdb).filter(|(key, _)| kept.fdb.get(key).is_some_and(FdbEntry::is_group));
    steps.extend(groups.map(|(key, _)| Step::UnsetFdb(*key)));
    steps.extend(set(&kept.fdb, &desired.fdb).map(|(key, entry)| Step::SetFdb(*key, *entry)));
    steps.extend(set(&kept.neighbours, &desired.neighbours).map(|(key, mac)| Step::SetNeighbour(*key, *mac)));
    steps.extend(set(&kept.listening, &desired.listening).map(|(name, to)| Step::Listen(*name, to.clone())));
    steps.extend(set(&kept.remotes, &desired.remotes).map(|(key, behind)| Step::SetRemote(*key, *behind)));
    // At once with those that are set: what was behind one may be behind another one now.
    steps.extend(unset(&kept.remotes, &desired.remotes).map(|(key, _)| Step::UnsetRemote(*key)));
    let evicted: Vec<_> = evicted(&kept, desired).map(Step::Evict).collect();
    if !evicted.is_empty() {
        let kept = kept.to_mut();
        evicted.iter().for_each(|step| step.apply(kept));
    }
    steps.extend(evicted);
    steps.extend(set(&kept.routes, &desired.routes).map(|(key, route)| Step::SetRoute(*key, *route)));
    steps.extend(set(&kept.blackholes, &desired.blackholes).map(|(key, ())| Step::SetBlackhole(*key)));
    steps.extend(unset(&kept.blackholes, &desired.blackholes).map(|(key, ())| Step::UnsetBlackhole(*key)));
    steps.extend(
        unset(&kept.routes, &desired.routes).map(|(key, route)| Step::UnsetRoute(*key, route.device)),
    );
    steps.extend(unset(&kept.neighbours, &desired.neighbours).map(|(key, _)| Step::UnsetNeighbour(*key)));
    let foreign = kept.fdb.iter().filter(|(key, entry)| desired.is_foreign(key, entry));
    steps.extend(foreign.map(|(key, _)| Step::UnsetFdb(*key)));
    Plan { steps }
}

/// New or different entries.
fn set<'a, K: Ord, V: PartialEq>(
    actual: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired.iter().filter(|(key, value)| actual.get(key) != Some(value))
}

/// Entries that are not wanted any more.
fn unset<'a, K: Ord, V>(
    actual: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    actual.iter().filter(|(key, _)| !desired.contains_key(key))
}

/// First whatever the kernel has instead of one of ours, last whatever else is not: with the last IPv4 address it takes
/// all routes.
fn plan_addresses(
    actual: &BTreeMap<AddressKey, Lifetime>,
    desired: &BTreeMap<AddressKey, Lifetime>,
) -> Vec<Step> {
    let excluded = |key: &AddressKey| desired.keys().any(|wanted| wanted.excludes(key));
    let (first, last): (Vec<_>, Vec<_>) =
        unset(actual, desired).map(|(key, _)| *key).partition(|key| excluded(key));
    let steps = first.into_iter().map(Step::UnsetAddress);
    let steps = steps.chain(set(actual, desired).map(|(key, _)| Step::SetAddress(*key)));
    steps.chain(last.into_iter().map(Step::UnsetAddress)).collect()
}

/// Where routes of ours to a prefix may be.
fn places(prefix: IpNet) -> [RouteKey; 2] {
    [metric(prefix), BLACKHOLE_METRIC].map(|metric| RouteKey { prefix, metric })
}

/// Routes in places that we want, and others that say that they are ours. Elsewhere
/// a route of somebody else's stays, whatever its metric.
fn evicted(actual: &Tables, desired: &Tables) -> impl Iterator<Item = Rival> {
    let is_place = |key: &RouteKey| desired.routes.contains_key(key) || desired.blackholes.contains_key(key);
    let unwanted = move |rival: &&Rival| {
        rival.protocol == PROTOCOL
            || (rival.only.source.is_some() && places(rival.key.prefix).iter().any(is_place))
            || (!rival.only.is_selective() && is_place(&rival.key))
    };
    actual.rivals.keys().filter(unwanted).copied()
}

/// Deletes first: a device that is going may hold the VNI and port that one
/// that is coming wants.
fn plan_devices(actual: &Tables, desired: &Tables, steps: &mut Vec<Step>) {
    for (name, device) in &actual.devices {
        if desired.devices.get(name).is_none_or(|wanted| must_be_created_again(device, wanted)) {
            steps.push(Step::DeleteDevice(*name));
        }
    }
    for (name, wanted) in &desired.devices {
        match actual.devices.get(name).filter(|device| !must_be_created_again(device, wanted)) {
            Some(device) => {
                steps.extend(changes(device, wanted).map(|change| Step::ChangeDevice(*name, change)))
            }
            None => {
                steps.push(Step::CreateDevice(*name, Box::new(wanted.clone())));
                let created = Device { alias: None, no_link_local: false, up: false, ..wanted.clone() };
                steps.extend(changes(&created, wanted).map(|change| Step::ChangeDevice(*name, change)));
            }
        }
    }
}

/// What the kernel refuses to change: VNI, port, GBP, checksums and the other
/// flags (`vxlan_changelink`), the underlay's family.
fn must_be_created_again(actual: &Device, desired: &Device) -> bool {
    let lasts = match (&actual.kind, &desired.kind) {
        (Kind::Vxlan(actual), Kind::Vxlan(desired)) => {
            (actual.vni, actual.port, actual.gbp) == (desired.vni, desired.port, desired.gbp)
                && actual.local.is_ipv4() == desired.local.is_ipv4()
        }
        (Kind::Tun, Kind::Tun) => true,
        (Kind::Vxlan(_), Kind::Tun) | (Kind::Tun, Kind::Vxlan(_)) => false,
    };
    !lasts || actual.plain != desired.plain
}

/// In the order in which the kernel takes them: the MTU is bounded by the lower
/// device's, and `addrgenmode` must be set while the device is down.
fn changes(actual: &Device, desired: &Device) -> impl Iterator<Item = Change> {
    let detach = (actual.attached && !desired.attached).then_some(Change::Detach);
    let vxlan = actual.vxlan().zip(desired.vxlan());
    let vxlan = vxlan.into_iter().flat_map(|(actual, desired)| vxlan_changes(actual, desired));
    let mtu = (actual.mtu != desired.mtu).then_some(Change::Mtu(desired.mtu));
    let alias = desired.alias.clone().filter(|alias| actual.alias.as_ref() != Some(alias)).map(Change::Alias);
    let regains_ipv6 = actual.mtu < Mtu::MIN_V6 && desired.mtu >= Mtu::MIN_V6;
    let makes_one = !actual.no_link_local || regains_ipv6;
    let no_link_local = (desired.no_link_local && makes_one).then_some(Change::NoLinkLocal);
    let up = (desired.up && !actual.up).then_some(Change::Up);
    detach.into_iter().chain(vxlan).chain([mtu, alias, no_link_local, up].into_iter().flatten())
}

fn vxlan_changes(actual: &Vxlan, desired: &Vxlan) -> impl Iterator<Item = Change> + use<> {
    let lower = desired.lower.filter(|lower| actual.lower != Some(*lower)).map(Change::Lower);
    let local = (actual.local != desired.local).then_some(Change::Local(desired.local));
    let learning = (actual.learning != desired.learning).then_some(Change::Learning(desired.learning));
    let mac = (actual.mac != desired.mac).then_some(Change::Mac(desired.mac));
    [lower, local, learning, mac].into_iter().flatten()
}

/// Settings are written while a new device is still down.
fn split_off_ups(steps: &mut Vec<Step>) -> Vec<Step> {
    steps.extract_if(.., |step| matches!(step, Step::ChangeDevice(_, Change::Up))).collect()
}
