//! `lodenctl reservation …`

use std::time::SystemTime;

use clap::Subcommand;
use loden_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;

use crate::age;
use crate::connection::{Connection, PAGE, all_pages};
use crate::failure::Failure;
use crate::output::{Output, View};
use crate::{lease, network};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Binds subnets of a network to a node
    Create {
        /// The network's name
        network: String,
        /// The node's name
        node: String,
        /// The subnets, one for each address family
        #[arg(required = true, value_name = "SUBNET")]
        subnets: Vec<String>,
    },
    /// Lists the reservations of one network, or of all
    List {
        /// The network's name
        network: Option<String>,
    },
    /// Removes a reservation; a lease on it stays
    Delete {
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
            Self::Create { network, node, subnets } => {
                let reservation =
                    v1::Reservation { name: name(&network, &node), subnets, ..Default::default() };
                let request =
                    v1::CreateReservationRequest { reservation: Some(reservation), ..Default::default() };
                let reservation = client.create_reservation(request).await?.into_inner();
                output.one(&ReservationView::from(reservation))?;
            }
            Self::List { network } => output.list(&list(connection, network.as_deref()).await?)?,
            Self::Delete { network, node } => {
                let name = name(&network, &node);
                client.delete_reservation(v1::DeleteReservationRequest { name: name.clone() }).await?;
                output.done("deleted", &name)?;
            }
        }
        Ok(())
    }
}

fn name(network: &str, node: &str) -> String {
    format!("networks/{network}/reservations/{node}")
}

async fn list(connection: &Connection, network: Option<&str>) -> Result<Vec<ReservationView>, Failure> {
    let mut client = connection.leases();
    let parent = network::name(network.unwrap_or("-"));
    let reservations = all_pages(async |page_token| {
        let request = v1::ListReservationsRequest { parent: parent.clone(), page_size: PAGE, page_token };
        let page = client.list_reservations(request).await?.into_inner();
        Ok((page.reservations, page.next_page_token))
    });
    Ok(reservations.await?.into_iter().map(ReservationView::from).collect())
}

/// A reservation as shown.
#[derive(Debug, Serialize)]
struct ReservationView {
    network: String,
    node: String,
    subnets: Vec<String>,
    create_time: Option<String>,
    #[serde(skip)]
    created: Option<Timestamp>,
}

impl From<v1::Reservation> for ReservationView {
    fn from(wire: v1::Reservation) -> Self {
        let (network, node) = lease::parts(&wire.name);
        Self {
            network,
            node,
            subnets: wire.subnets,
            create_time: age::rfc3339(wire.create_time.as_ref()),
            created: wire.create_time,
        }
    }
}

impl View for ReservationView {
    const COLUMNS: &'static [&'static str] = &["NETWORK", "NODE", "SUBNETS", "CREATED"];

    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        vec![vec![
            self.network.clone(),
            self.node.clone(),
            self.subnets.join(" "),
            age::relative(self.created.as_ref(), now),
        ]]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::output::table;

    #[test]
    fn a_reservation_is_shown_in_both_forms() {
        let wire = v1::Reservation {
            name: "networks/blue/reservations/node-1".into(),
            subnets: vec!["10.1.7.0/24".into()],
            create_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        };
        let view = ReservationView::from(wire);
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            json!({
                "network": "blue",
                "node": "node-1",
                "subnets": ["10.1.7.0/24"],
                "create_time": "1970-01-12T13:46:40Z",
            })
        );
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_003_600);
        assert_eq!(
            table(&[view], now),
            "NETWORK  NODE    SUBNETS      CREATED\nblue     node-1  10.1.7.0/24  1h ago"
        );
    }
}
