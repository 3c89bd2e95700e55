//! `lodenctl lease …`

use std::time::SystemTime;

use clap::Subcommand;
use loden_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;

use crate::age;
use crate::connection::{Connection, PAGE, all_pages};
use crate::endpoint::EndpointView;
use crate::failure::Failure;
use crate::network;
use crate::output::{Output, View, or_dash};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lists the leases of one network, or of all
    List {
        /// The network's name
        network: Option<String>,
    },
    /// Shows one lease
    Get {
        /// The network's name
        network: String,
        /// The node's name
        node: String,
    },
    /// Gives a node's subnets back; they cool down before somebody else gets them
    Release {
        /// The network's name
        network: String,
        /// The node's name
        node: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, connection: &Connection, output: Output) -> Result<(), Failure> {
        let mut client = connection.leases();
        match self {
            Self::List { network } => output.list(&list(connection, network.as_deref()).await?)?,
            Self::Get { network, node } => {
                let request = v1::GetLeaseRequest { name: name(&network, &node) };
                output.one(&LeaseView::from(client.get_lease(request).await?.into_inner()))?;
            }
            Self::Release { network, node } => {
                let name = name(&network, &node);
                // Epoch 0: whatever it is.
                client.release_lease(v1::ReleaseLeaseRequest { name: name.clone(), epoch: 0 }).await?;
                output.done("released", &name)?;
            }
        }
        Ok(())
    }
}

fn name(network: &str, node: &str) -> String {
    format!("networks/{network}/leases/{node}")
}

async fn list(connection: &Connection, network: Option<&str>) -> Result<Vec<LeaseView>, Failure> {
    let mut client = connection.leases();
    let parent = network::name(network.unwrap_or("-"));
    let leases = all_pages(async |page_token| {
        let request = v1::ListLeasesRequest { parent: parent.clone(), page_size: PAGE, page_token };
        let page = client.list_leases(request).await?.into_inner();
        Ok((page.leases, page.next_page_token))
    });
    Ok(leases.await?.into_iter().map(LeaseView::from).collect())
}

/// Network and node of `networks/{network}/{collection}/{node}`.
pub(crate) fn parts(name: &str) -> (String, String) {
    let mut parts = name.split('/').skip(1).step_by(2).map(str::to_owned);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// A lease as shown.
#[derive(Debug, Serialize)]
struct LeaseView {
    network: String,
    node: String,
    subnets: Vec<String>,
    state: &'static str,
    reserved: bool,
    endpoint: EndpointView,
    epoch: u64,
    instance_id: String,
    create_time: Option<String>,
    expire_time: Option<String>,
    #[serde(skip)]
    expires: Option<Timestamp>,
}

impl From<v1::Lease> for LeaseView {
    fn from(wire: v1::Lease) -> Self {
        let (network, node) = parts(&wire.name);
        let state = match wire.state() {
            v1::LeaseState::Unspecified => "unknown",
            v1::LeaseState::Active => "active",
            v1::LeaseState::Held => "held",
        };
        Self {
            network,
            node,
            state,
            subnets: wire.subnets,
            reserved: wire.reserved,
            endpoint: wire.endpoint.unwrap_or_default().into(),
            epoch: wire.epoch,
            instance_id: wire.instance_id,
            create_time: age::rfc3339(wire.create_time.as_ref()),
            expire_time: age::rfc3339(wire.expire_time.as_ref()),
            expires: wire.expire_time,
        }
    }
}

impl View for LeaseView {
    const COLUMNS: &'static [&'static str] =
        &["NETWORK", "NODE", "SUBNETS", "STATE", "EXPIRES", "ENDPOINT", "RECEIVERS"];

    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let expires =
            if self.reserved { "never".to_owned() } else { age::relative(self.expires.as_ref(), now) };
        vec![vec![
            self.network.clone(),
            self.node.clone(),
            or_dash(self.subnets.join(" ")),
            self.state.to_owned(),
            expires,
            or_dash(self.endpoint.addresses()),
            or_dash(self.endpoint.receivers()),
        ]]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::output::table;

    fn wire() -> v1::Lease {
        let vtep = v1::VxlanReceiver {
            family: v1::AddressFamily::Ipv4.into(),
            vni: 7,
            port: 8472,
            mac: "02:00:00:00:00:01".into(),
            mtu: 1450,
            gbp: false,
        };
        v1::Lease {
            name: "networks/blue/leases/node-1".into(),
            subnets: vec!["10.1.3.0/24".into(), "fd00:0:0:3::/64".into()],
            endpoint: Some(v1::Endpoint {
                address_v4: "192.0.2.1".into(),
                address_v6: String::new(),
                receivers: vec![v1::Receiver { kind: Some(v1::receiver::Kind::Vxlan(vtep)) }],
            }),
            epoch: 2,
            state: v1::LeaseState::Active.into(),
            create_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
            expire_time: Some(Timestamp { seconds: 1_086_400, nanos: 0 }),
            instance_id: "ab".repeat(16),
            reserved: false,
        }
    }

    #[test]
    fn json_names_are_stable() {
        assert_eq!(
            serde_json::to_value(LeaseView::from(wire())).unwrap(),
            json!({
                "network": "blue",
                "node": "node-1",
                "subnets": ["10.1.3.0/24", "fd00:0:0:3::/64"],
                "state": "active",
                "reserved": false,
                "endpoint": {
                    "address_v4": "192.0.2.1",
                    "address_v6": null,
                    "receivers": [{
                        "kind": "vxlan", "family": "ipv4", "vni": 7, "port": 8472,
                        "mac": "02:00:00:00:00:01", "mtu": 1450, "gbp": false,
                    }],
                },
                "epoch": 2,
                "instance_id": "abababababababababababababababab",
                "create_time": "1970-01-12T13:46:40Z",
                "expire_time": "1970-01-13T13:46:40Z",
            })
        );
    }

    #[test]
    fn the_table_tells_who_holds_what_until_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let reserved = v1::Lease { reserved: true, endpoint: None, subnets: Vec::new(), ..wire() };
        assert_eq!(
            table(&[LeaseView::from(wire()), LeaseView::from(reserved)], now),
            "NETWORK  NODE    SUBNETS                      STATE   EXPIRES  ENDPOINT   RECEIVERS\n\
             blue     node-1  10.1.3.0/24 fd00:0:0:3::/64  active  in 1day  192.0.2.1  vxlan 7 8472 02:00:00:00:00:01\n\
             blue     node-1  -                            active  never    -          -"
        );
    }
}
