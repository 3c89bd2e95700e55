//! Links, addresses and routes of one namespace, by rtnetlink.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags},
    link::{
        BridgePortState, InfoBridgePort, InfoData, InfoPortData, InfoVeth, LinkAttribute, LinkInfo,
        LinkMessage, State,
    },
    route::RouteMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{Error, Namespace, error::Doing};
use crate::wait;

const CARRIES_WITHIN: Duration = Duration::from_secs(10);

impl Namespace {
    /// The link called `name`.
    pub async fn link(&self, name: &str) -> Result<LinkMessage, Error> {
        let mut links = self.netlink.link().get().match_name(name.to_owned()).execute();
        links
            .try_next()
            .await
            .and_then(|link| link.ok_or(rtnetlink::Error::RequestFailed))
            .doing(|| format!("find link {name} in {}", self.full_name()))
    }

    /// The index of the link called `name`.
    pub async fn link_index(&self, name: &str) -> Result<u32, Error> {
        Ok(self.link(name).await?.header.index)
    }

    /// The MTU of the link called `name`, in bytes.
    pub async fn link_mtu(&self, name: &str) -> Result<u32, Error> {
        let link = self.link(name).await?;
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        mtu.ok_or_else(|| Error::new(format!("read the MTU of {name}"), "the kernel gave none"))
    }

    /// The MAC address of the link called `name`.
    pub async fn link_address(&self, name: &str) -> Result<Vec<u8>, Error> {
        let address = self.link(name).await?.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => Some(bytes),
            _ => None,
        });
        address.ok_or_else(|| Error::new(format!("read the address of {name}"), "the kernel gave none"))
    }

    /// Brings a link up.
    pub async fn set_up(&self, link: &str) -> Result<(), Error> {
        self.change(link, "bring up", LinkMessageBuilder::up).await
    }

    /// Takes a link down; the far end of a veth loses its carrier.
    pub async fn set_down(&self, link: &str) -> Result<(), Error> {
        self.change(link, "take down", LinkMessageBuilder::down).await
    }

    /// Changes a link's MTU, in bytes.
    pub async fn set_mtu(&self, link: &str, mtu: u32) -> Result<(), Error> {
        self.change(link, "change the MTU of", |builder| builder.mtu(mtu)).await
    }

    /// Gives a link another MAC address.
    pub async fn set_link_address(&self, link: &str, address: [u8; 6]) -> Result<(), Error> {
        self.change(link, "change the MAC address of", |builder| builder.address(address.to_vec())).await
    }

    /// Makes `port` a port of `bridge`.
    pub async fn set_bridge(&self, port: &str, bridge: &str) -> Result<(), Error> {
        let bridge = self.link_index(bridge).await?;
        self.change(port, "put on its bridge", |builder| builder.controller(bridge)).await
    }

    /// Waits until a link carries traffic: the kernel turns on a link's queue, and forwarding
    /// on a bridge port, up to a second after the link was brought up, and drops what is sent
    /// before.
    pub async fn carries(&self, name: &str) -> Result<(), Error> {
        let carries = || async {
            let link = self.link(name).await.map_err(|error| format!("{error:?}"))?;
            not_carrying(&link).map_or(Ok(()), Err)
        };
        let what = format!("{name} in {} to carry traffic", self.full_name());
        wait::until(&what, CARRIES_WITHIN, carries).await.doing(|| format!("use {name}"))
    }

    async fn change(
        &self,
        link: &str,
        what: &str,
        how: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), Error> {
        let index = self.link_index(link).await?;
        let message = how(LinkUnspec::new_with_index(index)).build();
        let request = self.netlink.link().set(message).execute().await;
        request.doing(|| format!("{what} {link} in {}", self.full_name()))
    }

    /// Deletes a link.
    pub async fn delete_link(&self, name: &str) -> Result<(), Error> {
        let index = self.link_index(name).await?;
        let request = self.netlink.link().del(index).execute().await;
        request.doing(|| format!("delete link {name} in {}", self.full_name()))
    }

    /// Makes a bridge, up, without spanning tree: its ports forward at once.
    pub async fn add_bridge(&self, name: &str, mtu: u32) -> Result<(), Error> {
        let message = LinkBridge::new(name).mtu(mtu).build();
        let request = self.netlink.link().add(message).execute().await;
        request.doing(|| format!("make bridge {name} in {}", self.full_name()))
    }

    /// Makes a veth pair, `name` here and `peer_name` in `peer`, both up.
    pub(super) async fn add_veth(
        &self,
        name: &str,
        peer: &Self,
        peer_name: &str,
        mtu: u32,
    ) -> Result<(), Error> {
        // The far end cannot be brought up before the near one exists (ENOTCONN).
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer_name)
            .mtu(mtu)
            .setns_by_fd(std::os::fd::AsRawFd::as_raw_fd(peer))
            .build();
        let near = LinkVeth::new(name, peer_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .mtu(mtu)
            .up()
            .build();
        let doing = || format!("link {name} in {} to {}", self.full_name(), peer.full_name());
        self.netlink.link().add(near).execute().await.doing(doing)?;
        peer.set_up(peer_name).await
    }

    /// Adds an address to a link. IPv6 addresses are not checked for duplicates and are usable
    /// when this returns.
    pub async fn add_address(&self, link: &str, address: IpNet) -> Result<(), Error> {
        let index = self.link_index(link).await?;
        let doing = || format!("add {address} to {link} in {}", self.full_name());
        let mut request = self.netlink.address().add(index, address.addr(), address.prefix_len());
        let IpNet::V6(v6) = address else { return request.execute().await.doing(doing) };
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request.execute().await.doing(doing)?;
        // The kernel joins the group in a work item of its own; until then nobody finds us, and
        // who has asked too early asks again only after a second.
        let group = solicited_node(v6.addr());
        let what = format!("{link} in {} to listen to {group}", self.full_name());
        let listens = || async {
            let groups = self
                .enter(|| fs::read_to_string("/proc/thread-self/net/igmp6"))
                .map_err(|error| error.to_string())?;
            is_member(&groups, link, group).then_some(()).ok_or_else(|| "it does not".to_owned())
        };
        wait::until(&what, CARRIES_WITHIN, listens).await.doing(doing)
    }

    /// Takes an address from a link.
    pub async fn remove_address(&self, link: &str, address: IpNet) -> Result<(), Error> {
        let index = self.link_index(link).await?;
        let doing = || format!("remove {address} from {link} in {}", self.full_name());
        let found: Vec<_> = self
            .netlink
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(address.addr())
            .set_prefix_length_filter(address.prefix_len())
            .execute()
            .try_collect()
            .await
            .doing(doing)?;
        let message = found.into_iter().next();
        let message = message.ok_or("there is no such address").doing(doing)?;
        self.netlink.address().del(message).execute().await.doing(doing)
    }

    /// Adds a route through a gateway. `0.0.0.0/0` or `::/0` makes it the default route.
    pub async fn add_route(&self, to: IpNet, gateway: IpAddr) -> Result<(), Error> {
        let doing = || format!("add route {to} via {gateway} in {}", self.full_name());
        let route = route(to, gateway).doing(doing)?;
        self.netlink.route().add(route).execute().await.doing(doing)
    }

    /// Removes a route through a gateway.
    pub async fn remove_route(&self, to: IpNet, gateway: IpAddr) -> Result<(), Error> {
        let doing = || format!("remove route {to} via {gateway} in {}", self.full_name());
        let route = route(to, gateway).doing(doing)?;
        self.netlink.route().del(route).execute().await.doing(doing)
    }
}

fn route(to: IpNet, gateway: IpAddr) -> Result<RouteMessage, Box<dyn std::error::Error + Send + Sync>> {
    let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.network(), to.prefix_len())?;
    Ok(route.gateway(gateway)?.build())
}

/// Why a link does not carry traffic yet; `None` if it does.
fn not_carrying(link: &LinkMessage) -> Option<String> {
    let port = |info: &LinkInfo| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => port.iter().find_map(|part| match part {
            InfoBridgePort::State(state) => Some(*state),
            _ => None,
        }),
        _ => None,
    };
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::OperState(state) if *state != State::Up => Some(format!("it is {state:?}")),
        LinkAttribute::LinkInfo(infos) => infos
            .iter()
            .find_map(port)
            .filter(|state| *state != BridgePortState::Forwarding)
            .map(|state| format!("its port is {state}")),
        _ => None,
    })
}

/// The group that neighbour solicitations for an address go to (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// Reads `/proc/net/igmp6`: index, link, group in hexadecimal, users, …
fn is_member(groups: &str, link: &str, group: Ipv6Addr) -> bool {
    let group = format!("{:032x}", u128::from(group));
    groups.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next() == Some(link) && fields.next() == Some(&group)
    })
}

/// The default route's destination in the family of `gateway`.
pub(super) fn everywhere(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solicitations_go_to_the_group_of_the_last_three_bytes() {
        let group = solicited_node("2001:db8::1234:5678".parse().unwrap());
        assert_eq!(group, "ff02::1:ff34:5678".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn a_group_of_another_link_does_not_count() {
        let groups = "2    eth0   ff0200000000000000000001ff000001     1 00000004 0\n";
        let group = "ff02::1:ff00:1".parse().unwrap();
        assert!(is_member(groups, "eth0", group));
        assert!(!is_member(groups, "eth1", group));
    }
}
