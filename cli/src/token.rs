//! `lodenctl token …`: what lets hosts join.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use loden_proto::{convert, v1};
use prost_types::Timestamp;
use serde::Serialize;

use crate::connection::{Connection, PAGE, all_pages};
use crate::failure::Failure;
use crate::output::{Output, View, or_dash, print};
use crate::{age, network};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Makes a token and prints it; it is not shown again
    Create {
        /// The only node that it lets in; without it any new one
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Network in which its nodes may have leases; repeat it for several, without it all
        #[arg(long = "network", value_name = "NAME", value_delimiter = ',')]
        networks: Vec<String>,
        /// How many nodes it lets in
        #[arg(long, value_name = "COUNT", default_value_t = 1)]
        uses: u32,
        /// How long
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Lists the tokens that have not expired
    List,
    /// Takes a token away; who has joined with it stays
    Delete {
        /// Its name: the first part of it
        token: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, connection: &Connection, output: Output) -> Result<(), Failure> {
        let mut client = connection.identities();
        match self {
            Self::Create { node, networks, uses, ttl } => {
                let request = v1::CreateJoinTokenRequest {
                    node: node.map(|node| format!("nodes/{node}")).unwrap_or_default(),
                    networks: networks.iter().map(|name| network::name(name)).collect(),
                    uses,
                    ttl: Some(convert::duration(ttl)),
                };
                let made = client.create_join_token(request).await?.into_inner();
                match output {
                    // Alone on its line, for whoever hands it on.
                    Output::Table => print(&made.token)?,
                    Output::Json => output.one(&TokenView::from(made))?,
                }
            }
            Self::List => {
                let tokens = all_pages(async |page_token| {
                    let request = v1::ListJoinTokensRequest { page_size: PAGE, page_token };
                    let page = client.list_join_tokens(request).await?.into_inner();
                    Ok((page.tokens, page.next_page_token))
                });
                let tokens: Vec<_> = tokens.await?.into_iter().map(TokenView::from).collect();
                output.list(&tokens)?;
            }
            Self::Delete { token } => {
                // Who has the whole token at hand may give that.
                let id = token.split('.').next().unwrap_or_default();
                let name = format!("tokens/{id}");
                client.delete_join_token(v1::DeleteJoinTokenRequest { name: name.clone() }).await?;
                output.done("deleted", &name)?;
            }
        }
        Ok(())
    }
}

/// A token as shown.
#[derive(Debug, Serialize)]
struct TokenView {
    name: String,
    node: Option<String>,
    networks: Vec<String>,
    uses_left: u32,
    create_time: Option<String>,
    expire_time: Option<String>,
    /// When it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip)]
    expires: Option<Timestamp>,
}

impl From<v1::JoinToken> for TokenView {
    fn from(wire: v1::JoinToken) -> Self {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            name: network::short(&wire.name),
            node: given(wire.node).map(|node| network::short(&node)),
            networks: wire.networks.iter().map(|name| network::short(name)).collect(),
            uses_left: wire.uses_left,
            create_time: age::rfc3339(wire.create_time.as_ref()),
            expire_time: age::rfc3339(wire.expire_time.as_ref()),
            token: given(wire.token),
            expires: wire.expire_time,
        }
    }
}

impl View for TokenView {
    const COLUMNS: &'static [&'static str] = &["TOKEN", "NODE", "NETWORKS", "USES LEFT", "EXPIRES"];

    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        vec![vec![
            self.name.clone(),
            or_dash(self.node.clone().unwrap_or_default()),
            or_dash(self.networks.join(" ")),
            self.uses_left.to_string(),
            age::relative(self.expires.as_ref(), now),
        ]]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::table;

    #[test]
    fn a_token_is_shown_in_both_forms() {
        let wire = v1::JoinToken {
            name: "tokens/0a1b2c3d".into(),
            node: "nodes/node-1".into(),
            networks: vec!["networks/blue".into(), "networks/red".into()],
            uses_left: 1,
            create_time: None,
            expire_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
            token: String::new(),
        };
        let view = TokenView::from(wire);
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            json!({
                "name": "0a1b2c3d",
                "node": "node-1",
                "networks": ["blue", "red"],
                "uses_left": 1,
                "create_time": null,
                "expire_time": "1970-01-12T13:46:40Z",
            })
        );
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(999_400);
        assert_eq!(
            table(&[view], now),
            "TOKEN     NODE    NETWORKS  USES LEFT  EXPIRES\n0a1b2c3d  node-1  blue red  1          in 10m"
        );
    }
}
