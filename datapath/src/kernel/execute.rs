//! Does a plan: entries in packed batches, devices one by one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;

use loden_proto::model::Family;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use super::decode::{Link, Owner};
use super::requests::{Batch, Requests};
use super::{elsewhere, encode, observe, sysctl};
use crate::backend::vni_of;
use crate::step::{Change, Step};
use crate::tables::{Device, Kind, RemoteKey, Vxlan};
use crate::tunnel::engine::{Behind, Engine, Listening};
use crate::{DeviceName, Error, KernelError, Plan, Report, tunnel};

/// Does a plan. Every step is tried, also when others failed.
pub(super) fn execute(requests: &mut Requests, engine: &mut Engine, plan: &Plan) -> Report {
    let mut run = Run {
        requests,
        engine,
        plan,
        devices: HashMap::new(),
        batch: Batch::default(),
        batched: Vec::new(),
        remotes: BTreeMap::new(),
        executed: 0,
        failed: Vec::new(),
    };
    for (number, step) in plan.steps().iter().enumerate() {
        run.step(number, step);
    }
    run.turn_tunnels();
    run.flush();
    run.failed.sort_by_key(|(number, _)| *number);
    let failed = run.failed.into_iter().map(|(number, error)| (plan.steps()[number].clone(), error));
    Report { executed: run.executed, failed: failed.collect() }
}

struct Run<'a> {
    requests: &'a mut Requests,
    engine: &'a mut Engine,
    plan: &'a Plan,
    /// Devices by name, `None` where there is none; for the time of this
    /// plan, since a device that is created again is another one.
    devices: HashMap<DeviceName, Option<Known>>,
    batch: Batch,
    /// The steps in the batch.
    batched: Vec<usize>,
    /// Changes of peers, to be made at once.
    remotes: BTreeMap<DeviceName, Vec<(SocketAddr, Option<Behind>)>>,
    executed: usize,
    failed: Vec<(usize, Error)>,
}

/// A device as far as a plan has to know it.
struct Known {
    index: u32,
    owner: Owner,
    /// What it is, where it may be in the way.
    described: String,
}

impl Known {
    fn of(link: &Link, owner: Owner) -> Self {
        let described = if owner == Owner::Ours { String::new() } else { describe(link) };
        Self { index: link.index, owner, described }
    }
}

impl Run<'_> {
    fn step(&mut self, number: usize, step: &Step) {
        if !matches!(step, Step::SetRemote(..) | Step::UnsetRemote(_)) {
            self.turn_tunnels();
        }
        let result = match step {
            Step::Listen(name, listening) => {
                self.flush();
                self.listen(*name, listening)
            }
            Step::SetRemote(key, behind) => self.remote(key, Some(*behind)),
            Step::UnsetRemote(key) => self.remote(key, None),
            Step::CreateDevice(name, device) => {
                self.flush();
                self.create(*name, device)
            }
            Step::DeleteDevice(name) => {
                self.flush();
                self.delete(*name)
            }
            Step::ChangeDevice(name, change) => {
                self.flush();
                self.change(*name, change)
            }
            Step::SetSysctl(key, value) => {
                self.flush();
                self.owned(key.device, &[Owner::Ours]).and_then(|_| sysctl::write(*key, *value))
            }
            entry => match self.entry(entry) {
                Ok((message, flags)) => {
                    self.batch.push(message, flags);
                    self.batched.push(number);
                    if self.batch.is_full() {
                        self.flush();
                    }
                    return;
                }
                Err(Error::NoDevice(_) | Error::NameTaken(..)) if is_unset(entry) => Ok(()),
                Err(error) => Err(error),
            },
        };
        self.note(number, result);
    }

    /// The message of a step that can be batched.
    fn entry(&mut self, step: &Step) -> Result<(RouteNetlinkMessage, u16), Error> {
        let device = match step {
            Step::SetBlackhole(key) => {
                return Ok((RouteNetlinkMessage::NewRoute(encode::blackhole(key)), encode::SET));
            }
            Step::UnsetBlackhole(key) => {
                return Ok((RouteNetlinkMessage::DelRoute(encode::unset_blackhole(key)), encode::PLAIN));
            }
            Step::Evict(rival) => {
                return Ok((RouteNetlinkMessage::DelRoute(encode::evict(rival)), encode::PLAIN));
            }
            step => step.device(),
        };
        let device = device.ok_or_else(|| Error::Decode(format!("{step} is about no device")))?;
        let index = match step {
            // Next hops are on links of the host's.
            Step::SetRoute(..) | Step::UnsetRoute(..) if vni_of(device).is_none() => self.index(device)?,
            _ => self.owned(device, &[Owner::Ours])?,
        };
        Ok(match step {
            Step::SetAddress(key) => {
                (RouteNetlinkMessage::NewAddress(encode::address(index, key)), encode::SET)
            }
            Step::UnsetAddress(key) => {
                (RouteNetlinkMessage::DelAddress(encode::address(index, key)), encode::PLAIN)
            }
            Step::SetFdb(key, entry) => {
                (RouteNetlinkMessage::NewNeighbour(encode::fdb(index, key, Some(entry))), encode::SET)
            }
            Step::UnsetFdb(key) => {
                (RouteNetlinkMessage::DelNeighbour(encode::fdb(index, key, None)), encode::PLAIN)
            }
            Step::SetNeighbour(key, mac) => {
                (RouteNetlinkMessage::NewNeighbour(encode::neighbour(index, key, Some(*mac))), encode::SET)
            }
            Step::UnsetNeighbour(key) => {
                (RouteNetlinkMessage::DelNeighbour(encode::neighbour(index, key, None)), encode::PLAIN)
            }
            Step::SetRoute(key, route) => {
                (RouteNetlinkMessage::NewRoute(encode::route(index, key, route)), encode::SET)
            }
            Step::UnsetRoute(key, _) => {
                (RouteNetlinkMessage::DelRoute(encode::unset_route(index, key)), encode::PLAIN)
            }
            Step::DeleteDevice(_)
            | Step::CreateDevice(..)
            | Step::ChangeDevice(..)
            | Step::Listen(..)
            | Step::SetRemote(..)
            | Step::UnsetRemote(_)
            | Step::SetSysctl(..)
            | Step::SetBlackhole(_)
            | Step::UnsetBlackhole(_)
            | Step::Evict(_) => {
                unreachable!("these are not batched, or have no device")
            }
        })
    }

    fn create(&mut self, name: DeviceName, device: &Device) -> Result<(), Error> {
        let Kind::Vxlan(vxlan) = &device.kind else { return self.create_tun(name, device.mtu) };
        let lower = vxlan.lower.map(|lower| self.index(lower)).transpose()?;
        self.devices.remove(&name);
        let message = encode::vxlan(name, vxlan, device.mtu, lower);
        match self.requests.write_one(message.clone(), encode::CREATE) {
            Err(Error::Kernel(error)) if error.errno == libc::EEXIST => {
                self.make_room(name, vxlan, error)?;
                self.requests.write_one(message, encode::CREATE)
            }
            result => result,
        }
    }

    /// Not by netlink, which has no way to.
    fn create_tun(&mut self, name: DeviceName, mtu: u32) -> Result<(), Error> {
        // Whoever held the one that was would be listening to nothing.
        self.engine.close(name);
        if let Ok(known) = self.known(name) {
            return Err(Error::NameTaken(name, known.described.clone()));
        }
        self.devices.remove(&name);
        tunnel::device::create(name, u16::try_from(mtu).unwrap_or(u16::MAX))
            .map_err(|source| Error::Tunnel { device: name, source })
    }

    fn listen(&mut self, name: DeviceName, listening: &Listening) -> Result<(), Error> {
        self.owned(name, &[Owner::Ours])?;
        let coming = self.plan.steps().iter().filter_map(|step| match step {
            Step::SetRemote(key, behind) if key.device == name => Some((key.endpoint, *behind)),
            _ => None,
        });
        let listens = self.engine.listen(name, listening.clone(), &coming.collect());
        listens.map_err(|source| Error::Tunnel { device: name, source })
    }

    fn remote(&mut self, key: &RemoteKey, behind: Option<Behind>) -> Result<(), Error> {
        if self.engine.listening(key.device).is_none() {
            return Err(Error::NoDevice(key.device));
        }
        self.remotes.entry(key.device).or_default().push((key.endpoint, behind));
        Ok(())
    }

    fn turn_tunnels(&mut self) {
        for (name, changes) in std::mem::take(&mut self.remotes) {
            self.engine.change(name, changes);
        }
    }

    /// EEXIST says that somebody has the name, or the VNI with the port. Where that is a tunnel of ours that was
    /// moved to another network namespace, it goes: it is of no use there, and cannot be brought back from here.
    fn make_room(&mut self, name: DeviceName, vxlan: &Vxlan, error: KernelError) -> Result<(), Error> {
        let Ok(links) = observe::links(self.requests) else { return Err(Error::Kernel(error)) };
        if let Some(link) = links.iter().find(|link| link.name == name) {
            // Whatever it looks like: who has observed it has not found it ours.
            self.devices.insert(name, Some(Known::of(link, Owner::Another)));
            return Err(Error::NameTaken(name, describe(link)));
        }
        let (vni, port, underlay) = (vxlan.vni.get(), vxlan.port.get(), Family::of(vxlan.local));
        let holds = |link: &Link| link.vni_and_port() == Some((vni, port)) && link.underlay() == underlay;
        if let Some(link) = links.iter().find(|link| holds(link)) {
            return Err(Error::VniTaken { holder: link.name.to_string(), vni, port });
        }
        let Ok(Some(moved)) = elsewhere::find(self.requests, holds) else {
            return Err(Error::VniAway { vni, port });
        };
        if moved.link.owner() == Owner::Ours && elsewhere::delete(self.requests, &moved).is_ok() {
            tracing::info!(device = %moved.link.name, "a tunnel of ours deleted that was moved to another network namespace");
            return Ok(());
        }
        Err(Error::VniTaken {
            holder: format!("{} in another network namespace", moved.link.name),
            vni,
            port,
        })
    }

    fn delete(&mut self, name: DeviceName) -> Result<(), Error> {
        let index = match self.owned(name, &[Owner::Ours, Owner::Unnamed]) {
            Ok(index) => index,
            Err(Error::NoDevice(_) | Error::NameTaken(..)) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.devices.remove(&name);
        self.engine.close(name);
        absent_is_done(self.requests.write_one(encode::delete_device(index), encode::PLAIN))
    }

    fn change(&mut self, name: DeviceName, change: &Change) -> Result<(), Error> {
        let index = self.owned(name, &[Owner::Ours, Owner::Unnamed])?;
        let message = encode::change(index, change, &mut |name| self.index(name))?;
        if matches!(change, Change::Alias(_)) {
            self.devices.remove(&name);
        }
        match self.requests.write_one(message, encode::PLAIN) {
            // Without IPv6 no link-local address is made.
            Err(Error::Kernel(error))
                if error.errno == libc::EAFNOSUPPORT && *change == Change::NoLinkLocal =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// The index of a tunnel that one of `owners` has. Nothing is written to a device of anybody else's,
    /// whatever its name.
    fn owned(&mut self, name: DeviceName, owners: &[Owner]) -> Result<u32, Error> {
        let known = self.known(name)?;
        if owners.contains(&known.owner) {
            Ok(known.index)
        } else {
            Err(Error::NameTaken(name, known.described.clone()))
        }
    }

    fn index(&mut self, name: DeviceName) -> Result<u32, Error> {
        self.known(name).map(|known| known.index)
    }

    fn known(&mut self, name: DeviceName) -> Result<&Known, Error> {
        if !self.devices.contains_key(&name) {
            let known = self.look(name)?;
            self.devices.insert(name, known);
        }
        self.devices.get(&name).and_then(Option::as_ref).ok_or(Error::NoDevice(name))
    }

    fn look(&mut self, name: DeviceName) -> Result<Option<Known>, Error> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_string()));
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.requests.ask(RouteNetlinkMessage::GetLink(question)) {
            Ok(RouteNetlinkMessage::NewLink(message)) => match Link::new(message) {
                Some(link) => Ok(Some(Known::of(&link, link.owner()))),
                None => Err(Error::Decode(format!("the device {name} has no name"))),
            },
            Ok(_) => Err(Error::Decode("the answer to a question for a link is not a link".to_owned())),
            Err(Error::Kernel(error)) if error.errno == libc::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let numbers = std::mem::take(&mut self.batched);
        match self.requests.write(&mut self.batch) {
            Ok(results) => {
                for (number, result) in numbers.into_iter().zip(results) {
                    let unset = is_unset(&self.plan.steps()[number]);
                    self.note(number, if unset { absent_is_done(result) } else { result });
                }
            }
            Err(error) => {
                let code = match &error {
                    Error::Socket(error) => error.raw_os_error(),
                    _ => None,
                };
                tracing::warn!(%error, steps = numbers.len(), "a batch could not be written");
                for number in numbers {
                    let error = code.map_or(Error::Unknown, |code| io::Error::from_raw_os_error(code).into());
                    self.note(number, Err(error));
                }
            }
        }
    }

    fn note(&mut self, number: usize, result: Result<(), Error>) {
        match result {
            Ok(()) => self.executed += 1,
            Err(error) => self.failed.push((number, error)),
        }
    }
}

const fn is_unset(step: &Step) -> bool {
    matches!(
        step,
        Step::UnsetAddress(_)
            | Step::UnsetFdb(_)
            | Step::UnsetNeighbour(_)
            | Step::UnsetRoute(..)
            | Step::UnsetBlackhole(_)
            | Step::Evict(_)
    )
}

/// What we wanted gone is gone.
fn absent_is_done(result: Result<(), Error>) -> Result<(), Error> {
    const GONE: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];
    match result {
        Err(Error::Kernel(error)) if GONE.contains(&error.errno) => Ok(()),
        result => result,
    }
}

fn describe(link: &Link) -> String {
    let kind =
        link.kind.as_ref().map_or_else(|| "no virtual device".to_owned(), |kind| format!("of kind {kind}"));
    match &link.alias {
        Some(alias) => format!("{kind}, with the alias {alias:?}"),
        None => format!("{kind}, without an alias"),
    }
}
