//! Clients that come through a balancer, which says from where.

use super::*;
use crate::connection::proxy::testing::{header, of_client};

/// Where the balancer connects from.
const BALANCER: &str = "127.0.0.8";

async fn behind_a_balancer(patience: Patience) -> Listening {
    listen_behind(vec![format!("{BALANCER}/32").parse().unwrap()], patience).await
}

fn says(client: &str) -> Vec<u8> {
    of_client(client.parse().unwrap(), b"\x04\x00\x02hi")
}

/// What a server does with a connection from an address that begins with these bytes, and goes on with TLS: from where
/// it comes to it, if it takes it.
async fn taken(listening: &Listening, from: &str, begin: &[u8]) -> Option<SocketAddr> {
    let failed = listening.metrics.handshakes_failed.get();
    let mut tcp = half_open(from, listening.address).await.unwrap();
    tcp.write_all(begin).await.unwrap();
    // Kept until the server has seen it.
    let _client = secured(tcp, &admin(listening.state.path())).await;
    loop {
        if let Some(link) = listening.registry.links().pop() {
            return Some(link.remote);
        }
        if listening.metrics.handshakes_failed.get() > failed {
            return None;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_comes_from_where_the_balancer_says() {
    for client in ["192.0.2.7:4711", "[2001:db8::7]:4711"] {
        let listening = behind_a_balancer(Patience::default()).await;
        let remote = taken(&listening, BALANCER, &says(client)).await.unwrap();
        assert_eq!(remote.to_string(), client);
    }
    for (command, block) in [(0, &[][..]), (1, &[0; 8])] {
        let listening = behind_a_balancer(Patience::default()).await;
        let remote = taken(&listening, BALANCER, &header(command, 0, block)).await.unwrap();
        assert_eq!(remote.ip().to_string(), BALANCER, "it is its own");
    }
}

#[tokio::test]
async fn a_balancer_that_does_not_say_so_is_refused_and_nobody_else_may_say_so() {
    for (from, begin, takes) in [
        (BALANCER, Vec::new(), None),
        (BALANCER, b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 7443\r\n".to_vec(), None),
        ("127.0.0.9", says("192.0.2.7:4711"), None),
        ("127.0.0.9", Vec::new(), Some("127.0.0.9")),
    ] {
        let listening = behind_a_balancer(Patience::default()).await;
        let remote = taken(&listening, from, &begin).await;
        assert_eq!(remote.map(|remote| remote.ip().to_string()).as_deref(), takes, "{from} {begin:?}");
    }
}

#[tokio::test]
async fn a_header_that_is_not_whole_in_time_ends_its_connection() {
    let patience = Patience { handshake: Duration::from_millis(300), ..Patience::default() };
    let listening = behind_a_balancer(patience).await;
    let says = says("192.0.2.7:4711");
    for (ended, sent) in (1..).zip([&[][..], &says[..9], &says[..20]]) {
        let mut slow = half_open(BALANCER, listening.address).await.unwrap();
        slow.write_all(sent).await.unwrap();
        let read = async { while matches!(slow.read(&mut [0; 1024]).await, Ok(1..)) {} };
        timeout(LONG, read).await.unwrap();
        while listening.metrics.handshakes_failed.get() < ended {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_floods_through_a_balancer_keeps_none_of_its_others_out() {
    have_many_descriptors();
    // Nobody of the flood gives up meanwhile.
    let listening =
        behind_a_balancer(Patience { handshake: Duration::from_secs(600), ..Patience::default() }).await;
    let mut flood = Vec::new();
    while listening.metrics.connections_turned_away.get() == 0 {
        // One that is turned away may be reset before it has said anything.
        if let Ok(mut one) = half_open(BALANCER, listening.address).await {
            drop(one.write_all(&says("192.0.2.7:4711")).await);
            flood.push(one);
        }
        assert!(flood.len() < 5000, "a client behind a balancer has no limit");
    }
    assert!(flood.len() > 2000, "{} are too few for a site behind one address", flood.len());
    let remote = timeout(LONG, taken(&listening, BALANCER, &says("192.0.2.8:4711"))).await.unwrap();
    assert_eq!(remote, Some("192.0.2.8:4711".parse().unwrap()));
}
