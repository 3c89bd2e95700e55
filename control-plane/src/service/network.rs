//! NetworkService.

use std::collections::BTreeSet;
use std::sync::Arc;

use loden_proto::convert::device_offload_from;
use loden_proto::model::{Masquerade, Mtu, NetworkSpec, Pool};
use loden_proto::names::{self, NetworkId};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::network_service_server::NetworkService;
use loden_proto::v1::{
    CreateNetworkRequest, DeleteNetworkRequest, GetNetworkRequest, ListNetworksRequest, ListNetworksResponse,
    Network, UpdateNetworkRequest,
};
use loden_proto::{InvalidValue, v1};
use tonic::{Code, Request, Response, Status};

use super::access::Caller;
use super::page::Page;
use super::refusal::failed;
use super::{Shared, caller};
use crate::clerk::Answer;
use crate::ledger::{Command, NetworkChange, OffloadChange};

/// Longest id of a request, in characters.
const REQUEST_ID: usize = 64;
/// A path of a mask, of VXLAN alone.
const DIRECT_ROUTING: &str = "vxlan.direct_routing";
/// Paths of a mask, of the UDP tunnel alone.
const DEVICE_OFFLOAD: &str = "udp.device_offload";
const SINGLE_SENDS: &str = "udp.single_sends";
const SINGLE_RECEIVES: &str = "udp.single_receives";
/// All paths that a mask may have.
const CHANGEABLE: [&str; 7] =
    ["pools", "mtu", "masquerade", DIRECT_ROUTING, DEVICE_OFFLOAD, SINGLE_SENDS, SINGLE_RECEIVES];

pub(super) struct Networks(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl NetworkService for Networks {
    async fn create_network(
        &self,
        request: Request<CreateNetworkRequest>,
    ) -> Result<Response<Network>, Status> {
        let caller = caller(&request)?;
        let CreateNetworkRequest { network, request_id } = request.into_inner();
        let wire = network.ok_or_else(|| InvalidValue::missing("network"))?;
        let spec = NetworkSpec::try_from(wire).map_err(|invalid| invalid.at("network"))?;
        let request_id = parse_request_id(request_id)?;
        let name = names::network(&spec.id);
        self.submit(&caller, &name, Command::CreateNetwork { spec, request_id }).await
    }

    async fn get_network(&self, request: Request<GetNetworkRequest>) -> Result<Response<Network>, Status> {
        let id = names::parse_network(&request.get_ref().name).map_err(|invalid| invalid.at("name"))?;
        let found = self.0.clerk.read(|ledger| ledger.network(&id).map(Network::from));
        found.map(Response::new).ok_or_else(|| not_found(&names::network(&id)))
    }

    async fn list_networks(
        &self,
        request: Request<ListNetworksRequest>,
    ) -> Result<Response<ListNetworksResponse>, Status> {
        let ListNetworksRequest { page_size, page_token } = request.into_inner();
        let page = Page::new("", page_size, &page_token)?;
        let after: Option<NetworkId> = page.after(str::parse)?;
        Ok(Response::new(self.0.clerk.read(|ledger| {
            let later =
                ledger.networks().filter(|network| after.as_ref().is_none_or(|after| network.id > *after));
            let (networks, next_page_token) =
                page.take(later, |network| network.id.to_string(), |network| Network::from(*network));
            ListNetworksResponse { networks, next_page_token, revision: ledger.revision().0 }
        })))
    }

    async fn update_network(
        &self,
        request: Request<UpdateNetworkRequest>,
    ) -> Result<Response<Network>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let name = request.network.as_ref().map(|network| network.name.clone()).unwrap_or_default();
        self.submit(&caller, &name, update(request)?).await
    }

    async fn delete_network(&self, request: Request<DeleteNetworkRequest>) -> Result<Response<()>, Status> {
        let caller = caller(&request)?;
        let DeleteNetworkRequest { name, force } = request.into_inner();
        let id = names::parse_network(&name).map_err(|invalid| invalid.at("name"))?;
        let deleted = self.0.clerk.submit(Command::DeleteNetwork { id, force }).await.map_err(failed);
        self.0.audit.outcome(&caller, &name, deleted)?;
        Ok(Response::new(()))
    }
}

impl Networks {
    async fn submit(
        &self,
        caller: &Caller,
        name: &str,
        command: Command,
    ) -> Result<Response<Network>, Status> {
        let changed = self.0.clerk.submit(command).await.map_err(failed);
        match self.0.audit.outcome(caller, name, changed)? {
            Answer::Network(network) => Ok(Response::new((&network).into())),
            other => Err(wrong_answer(&other)),
        }
    }
}

/// The fields of the mask, and nothing else of the network but its name and revision.
fn update(request: UpdateNetworkRequest) -> Result<Command, InvalidValue> {
    let wire = request.network.ok_or_else(|| InvalidValue::missing("network"))?;
    let at = |invalid: InvalidValue| invalid.at("network");
    let id = names::parse_network(&wire.name).map_err(|invalid| at(invalid.at("name")))?;
    let mask = request.update_mask.unwrap_or_default();
    let paths: BTreeSet<&str> = mask.paths.iter().map(String::as_str).collect();
    if paths.is_empty() {
        return Err(InvalidValue::missing("update_mask"));
    }
    if let Some(path) = paths.iter().find(|path| !CHANGEABLE.contains(path)) {
        let rule = format!("cannot be changed; {} can", CHANGEABLE.join(", "));
        return Err(InvalidValue::new(path, rule).at("update_mask"));
    }
    let pools = paths.contains("pools").then(|| parse_pools(wire.pools)).transpose().map_err(at)?;
    let mtu = wire.mtu.map(Mtu::try_from).transpose().map_err(|invalid| at(invalid.at("mtu")));
    let mtu = paths.contains("mtu").then_some(mtu).transpose()?;
    let masquerade = wire.masquerade.map(Masquerade::try_from).transpose();
    let masquerade = masquerade.map_err(|invalid| at(invalid.at("masquerade")));
    let masquerade = paths.contains("masquerade").then_some(masquerade).transpose()?;
    let direct_routing = match &wire.backend {
        _ if !paths.contains(DIRECT_ROUTING) => None,
        Some(v1::network::Backend::Vxlan(vxlan)) => Some(vxlan.direct_routing),
        _ => return Err(at(InvalidValue::missing("vxlan"))),
    };
    let offloads = offloads(wire.backend.as_ref(), &paths).map_err(at)?;
    let seen = Some(wire.revision).filter(|revision| *revision != 0);
    let change = NetworkChange { pools, mtu, masquerade, direct_routing, offloads };
    Ok(Command::UpdateNetwork { id, change, seen })
}

/// Those of a UDP tunnel's limits that the mask names.
fn offloads(
    backend: Option<&v1::network::Backend>,
    paths: &BTreeSet<&str>,
) -> Result<OffloadChange, InvalidValue> {
    if [DEVICE_OFFLOAD, SINGLE_SENDS, SINGLE_RECEIVES].iter().all(|path| !paths.contains(path)) {
        return Ok(OffloadChange::default());
    }
    let Some(v1::network::Backend::Udp(udp)) = backend else { return Err(InvalidValue::missing("udp")) };
    let device = paths.contains(DEVICE_OFFLOAD).then(|| device_offload_from(udp.device_offload));
    Ok(OffloadChange {
        device: device.transpose().map_err(|invalid| invalid.at("udp"))?,
        single_sends: paths.contains(SINGLE_SENDS).then_some(udp.single_sends),
        single_receives: paths.contains(SINGLE_RECEIVES).then_some(udp.single_receives),
    })
}

fn parse_pools(wire: Vec<v1::Pool>) -> Result<Vec<Pool>, InvalidValue> {
    let pool = |(index, pool): (usize, v1::Pool)| {
        Pool::try_from(pool).map_err(|invalid| invalid.at(format!("pools[{index}]")))
    };
    wire.into_iter().enumerate().map(pool).collect()
}

/// An id that makes repeats of a request harmless; empty is none.
pub(super) fn parse_request_id(id: String) -> Result<Option<String>, InvalidValue> {
    if id.chars().count() > REQUEST_ID {
        let rule = format!("must be at most {REQUEST_ID} characters");
        return Err(InvalidValue::new(id, rule).at("request_id"));
    }
    Ok(Some(id).filter(|id| !id.is_empty()))
}

pub(super) fn not_found(name: &str) -> Status {
    reason::status(Code::NotFound, Reason::NotFound, format!("{name} does not exist"))
}

/// The clerk answers what was asked for; anything else is a fault of ours.
pub(super) fn wrong_answer(answer: &Answer) -> Status {
    tracing::error!(?answer, "the ledger answered something else than was asked for");
    Status::internal("the answer does not fit the question")
}

#[cfg(test)]
mod tests {
    use loden_proto::model::DeviceOffload;

    use super::*;

    fn request(paths: &[&str]) -> UpdateNetworkRequest {
        let pools = vec![v1::Pool { cidr: "10.1.0.0/16".into(), node_prefix_len: None }];
        let network = Network { name: "networks/blue".into(), pools, mtu: Some(1400), ..Default::default() };
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        UpdateNetworkRequest { network: Some(network), update_mask: Some(prost_types::FieldMask { paths }) }
    }

    fn changed(request: UpdateNetworkRequest) -> NetworkChange {
        match update(request).unwrap() {
            Command::UpdateNetwork { change, .. } => change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_fields_of_the_mask_are_changed() {
        let change = changed(request(&["pools"]));
        assert_eq!(change.pools.as_ref().map(Vec::len), Some(1));
        assert_eq!(change, NetworkChange { pools: change.pools.clone(), ..NetworkChange::default() });
        let mtu = |mtu| NetworkChange { mtu: Some(mtu), ..NetworkChange::default() };
        assert_eq!(changed(request(&["mtu"])), mtu(Some(Mtu::try_from(1400).unwrap())));
        let mut unset = request(&["mtu"]);
        unset.network.as_mut().unwrap().mtu = None;
        assert_eq!(changed(unset), mtu(None));
        let change = NetworkChange { masquerade: Some(None), ..NetworkChange::default() };
        assert_eq!(changed(request(&["masquerade"])), change);
        for direct_routing in [true, false] {
            let mut direct = request(&["vxlan.direct_routing"]);
            let vxlan = v1::VxlanBackend { direct_routing, ..Default::default() };
            direct.network.as_mut().unwrap().backend = Some(v1::network::Backend::Vxlan(vxlan));
            let change = NetworkChange { direct_routing: Some(direct_routing), ..NetworkChange::default() };
            assert_eq!(changed(direct), change);
        }
    }

    #[test]
    fn only_the_limits_of_the_mask_are_changed() {
        let offloads = |path: &str, device_offload: v1::DeviceOffload| {
            let device_offload = device_offload.into();
            let udp =
                v1::UdpBackend { device_offload, single_sends: true, single_receives: true, port: Some(1) };
            let mut request = request(&[path]);
            request.network.as_mut().unwrap().backend = Some(v1::network::Backend::Udp(udp));
            let NetworkChange { offloads, .. } = changed(request);
            (offloads.device, offloads.single_sends, offloads.single_receives)
        };
        for (wire, most) in [
            (v1::DeviceOffload::Unspecified, DeviceOffload::Uso),
            (v1::DeviceOffload::Tso, DeviceOffload::Tso),
            (v1::DeviceOffload::Plain, DeviceOffload::Plain),
        ] {
            assert_eq!(offloads("udp.device_offload", wire), (Some(most), None, None));
            assert_eq!(offloads("udp.single_sends", wire), (None, Some(true), None));
            assert_eq!(offloads("udp.single_receives", wire), (None, None, Some(true)));
            assert_eq!(offloads("mtu", wire), (None, None, None));
        }
    }

    #[test]
    fn a_bad_update_names_the_field() {
        let field = |request| update(request).unwrap_err().field;
        assert_eq!(field(request(&[])), "update_mask");
        assert_eq!(field(request(&["vni"])), "update_mask");
        assert_eq!(field(request(&["udp.port"])), "update_mask");
        assert_eq!(field(request(&["vxlan.direct_routing"])), "network.vxlan");
        assert_eq!(field(request(&["udp.single_sends"])), "network.udp");
        let mut bad = request(&["udp.device_offload"]);
        let udp = v1::UdpBackend { device_offload: 9, ..Default::default() };
        bad.network.as_mut().unwrap().backend = Some(v1::network::Backend::Udp(udp));
        assert_eq!(field(bad), "network.udp.device_offload");
        let mut bad = request(&["pools"]);
        bad.network.as_mut().unwrap().pools[0].cidr = "10.1.0.1/16".into();
        assert_eq!(field(bad), "network.pools[0].cidr");
        let mut bad = request(&["mtu"]);
        bad.network.as_mut().unwrap().mtu = Some(40);
        assert_eq!(field(bad), "network.mtu");
        let mut bad = request(&["masquerade"]);
        let masquerade = v1::Masquerade { except: vec!["10.0.0.1/8".into()], random_fully: false };
        bad.network.as_mut().unwrap().masquerade = Some(masquerade);
        assert_eq!(field(bad), "network.masquerade.except[0]");
        assert_eq!(parse_request_id("x".repeat(65)).unwrap_err().field, "request_id");
    }
}
