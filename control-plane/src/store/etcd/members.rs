//! Which member of etcd is talked to: one of them, until it fails; then the next.

use std::fmt;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tokio::sync::Mutex;

use super::EtcdOptions;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(3);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it is alive, and how long the answer may take.
const KEEP_ALIVE: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(2)];
/// The largest answer that is taken: a page of the largest records and more.
const ANSWER_BYTES: usize = 512 << 20;

/// The members of an etcd.
pub(super) struct Members {
    urls: Vec<String>,
    options: ConnectOptions,
    talked_to: Mutex<Talk>,
}

struct Talk {
    /// Counts the members that were tried, also again.
    number: usize,
    client: Option<Client>,
}

/// A member that is talked to.
pub(super) struct Member {
    /// For [`Members::leave`].
    pub(super) number: usize,
    client: Client,
}

impl Member {
    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(ANSWER_BYTES)
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(ANSWER_BYTES)
    }

    pub(super) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }
}

impl Members {
    pub(super) fn new(options: &EtcdOptions) -> Self {
        Self {
            urls: options.urls(),
            options: connecting(options),
            talked_to: Mutex::new(Talk { number: 0, client: None }),
        }
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.urls.len()
    }

    /// The one that is talked to. An error leaves it.
    pub(super) async fn member(&self) -> Result<Member, Error> {
        let mut talk = self.talked_to.lock().await;
        let number = talk.number;
        if let Some(client) = &talk.client {
            return Ok(Member { number, client: client.clone() });
        }
        let url = &self.urls[number % self.urls.len()];
        match Client::connect([url], Some(self.options.clone())).await {
            Ok(client) => {
                talk.client = Some(client.clone());
                Ok(Member { number, client })
            }
            Err(error) => {
                talk.number += 1;
                Err(error)
            }
        }
    }

    /// Talks to the next one from now on, unless somebody has seen to that already.
    pub(super) async fn leave(&self, number: usize) {
        let mut talk = self.talked_to.lock().await;
        if talk.number == number {
            *talk = Talk { number: number + 1, client: None };
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("urls", &self.urls).finish_non_exhaustive()
    }
}

fn connecting(options: &EtcdOptions) -> ConnectOptions {
    let [interval, timeout] = KEEP_ALIVE;
    // A member that the others have left behind refuses rather than answers with what was.
    let mut connecting = ConnectOptions::new()
        .with_keep_alive(interval, timeout)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(CONNECT)
        .with_timeout(CALL)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((name, password)) = &options.user {
        connecting = connecting.with_user(name, password);
    }
    if options.address.tls {
        let mut tls = TlsOptions::new();
        if let Some(ca) = &options.ca {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &options.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        connecting = connecting.with_tls(tls);
    }
    connecting
}
