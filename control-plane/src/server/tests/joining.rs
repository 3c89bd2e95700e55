//! From a token to a certificate, and out again.

use std::time::Duration;

use loden_proto::model::JoinToken;
use loden_proto::reason::{Reason, retry_after};
use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::{
    Certificate, CreateJoinTokenRequest, DeleteNodeRequest, GetNodeRequest, JoinRequest, JoinToken as Made,
    ListJoinTokensRequest, RenewCertificateRequest, RevokeNodeRequest,
};
use loden_transport::{
    Bundle, ConnectOptions, Credentials, Holder, KeyRequest, ServerAddress, connect, connect_joining,
};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::task::yield_now;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::fixture::{Fixture, LONG, acquire, create, start, start_with, watch};
use crate::identity::IssuedRole;

pub(super) fn address(fixture: &Fixture) -> ServerAddress {
    fixture.server.listen().to_string().parse().unwrap()
}

pub(super) async fn token(fixture: &Fixture, request: CreateJoinTokenRequest) -> Made {
    IdentityServiceClient::new(fixture.admin().await).create_join_token(request).await.unwrap().into_inner()
}

pub(super) fn for_node(node: &str) -> CreateJoinTokenRequest {
    CreateJoinTokenRequest { node: format!("nodes/{node}"), ..CreateJoinTokenRequest::default() }
}

/// A connection of a host that has nothing but the token.
async fn outside(fixture: &Fixture, token: &str) -> Channel {
    let root = token.parse::<JoinToken>().unwrap().root;
    connect_joining(&[address(fixture)], root, &ConnectOptions::default()).await.unwrap()
}

pub(super) async fn join(
    fixture: &Fixture,
    token: &str,
    node: &str,
    key: &KeyRequest,
) -> Result<Bundle, Status> {
    let channel = outside(fixture, token).await;
    let request = JoinRequest {
        token: token.to_owned(),
        node: if node.is_empty() { String::new() } else { format!("nodes/{node}") },
        certificate_request: key.der().to_vec(),
    };
    let joined = IdentityServiceClient::new(channel).join(request).await?.into_inner();
    Ok(bundle(joined.certificate.unwrap(), key))
}

fn bundle(certificate: Certificate, key: &KeyRequest) -> Bundle {
    Bundle::from_pem(certificate.trust, certificate.chain, key.key_pem().to_owned()).unwrap()
}

pub(super) async fn inside(fixture: &Fixture, bundle: &Bundle) -> Channel {
    let credentials = Credentials::fixed(bundle).unwrap();
    connect(&[address(fixture)], &credentials, &ConnectOptions::default()).await.unwrap()
}

/// Another certificate, for another key.
pub(super) async fn renew(channel: Channel) -> Result<Bundle, Status> {
    let key = KeyRequest::new().unwrap();
    let request = RenewCertificateRequest { certificate_request: key.der().to_vec() };
    let renewed = IdentityServiceClient::new(channel).renew_certificate(request).await?.into_inner();
    Ok(bundle(renewed, &key))
}

fn holder(bundle: &Bundle) -> Holder {
    let der = CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes()).unwrap();
    Holder::of_certificate(&der).unwrap()
}

async fn revoke(fixture: &Fixture, node: &str) -> Result<u32, Status> {
    let request = RevokeNodeRequest { name: format!("nodes/{node}"), allow_missing: false };
    let revoked = NodeServiceClient::new(fixture.admin().await).revoke_node(request).await?;
    Ok(revoked.into_inner().epoch)
}

#[tokio::test]
async fn a_host_with_a_token_becomes_the_node_that_it_says_whatever_is_in_its_request() {
    let fixture = start().await;
    let blue = create(&fixture.admin().await, "blue", "10.1.0.0/16").await;
    let made = token(&fixture, CreateJoinTokenRequest::default()).await;
    let key = KeyPair::generate().unwrap();
    let forged = CertificateParams::new(["control-plane.loden.loden".to_owned()]).unwrap();
    let request = JoinRequest {
        token: made.token.clone(),
        node: "nodes/a".to_owned(),
        certificate_request: forged.serialize_request(&key).unwrap().der().to_vec(),
    };
    let channel = outside(&fixture, &made.token).await;
    let joined =
        IdentityServiceClient::new(channel.clone()).join(request.clone()).await.unwrap().into_inner();
    assert_eq!(joined.node, "nodes/a");
    let certificate = joined.certificate.unwrap();
    let bundle = Bundle::from_pem(certificate.trust, certificate.chain, key.serialize_pem()).unwrap();
    assert_eq!(bundle.id().to_string(), "spiffe://loden/node/a");
    acquire(&inside(&fixture, &bundle).await, &blue, 1).await;

    IdentityServiceClient::new(channel).join(request).await.expect("the answer may have been lost");
    let other = KeyRequest::new().unwrap();
    let spent = join(&fixture, &made.token, "b", &other).await.unwrap_err();
    assert_eq!(spent.code(), Code::Unauthenticated);
    assert!(Reason::TokenSpent.is_of(&spent), "{spent}");
    assert!(spent.message().contains("used up"), "{spent}");
}

#[tokio::test]
async fn who_has_no_certificate_may_join_and_nothing_else() {
    let fixture = start().await;
    let made = token(&fixture, CreateJoinTokenRequest::default()).await;
    let channel = outside(&fixture, &made.token).await;
    let request = GetNodeRequest { name: "nodes/a".into() };
    let status = NodeServiceClient::new(channel.clone()).get_node(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let health = tonic_health::pb::health_client::HealthClient::new(channel)
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(health.code(), Code::Unauthenticated);
    let request = JoinRequest::default();
    let status = IdentityServiceClient::new(fixture.admin().await).join(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "whoever has a certificate has joined");
    fixture.until("/metrics", "loden_calls_denied_total 3").await;
}

#[tokio::test]
async fn a_host_believes_the_ca_that_its_token_names_and_no_other() {
    let (fixture, other) = (start().await, start().await);
    let made = token(&other, CreateJoinTokenRequest::default()).await;
    let root = made.token.parse::<JoinToken>().unwrap().root;
    let error = connect_joining(&[address(&fixture)], root, &ConnectOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("CA is not the one that the token names"), "{error}");
    // Its secret is not told to the wrong one, and the right one does not know it either.
    let own = token(&fixture, CreateJoinTokenRequest::default()).await;
    let (own, made) = (own.token.parse::<JoinToken>().unwrap(), made.token.parse::<JoinToken>().unwrap());
    let mixed = JoinToken { root: own.root, ..made }.to_string();
    let status = join(&fixture, &mixed, "a", &KeyRequest::new().unwrap()).await.unwrap_err();
    assert!(Reason::TokenInvalid.is_of(&status), "{status}");
}

#[tokio::test]
async fn bad_requests_are_named_and_spend_nothing() {
    let fixture = start().await;
    let made = token(&fixture, for_node("a")).await;
    let channel = outside(&fixture, &made.token).await;
    let mut client = IdentityServiceClient::new(channel);
    let good = KeyRequest::new().unwrap();
    let request = |token: &str, node: &str, der: &[u8]| JoinRequest {
        token: token.to_owned(),
        node: node.to_owned(),
        certificate_request: der.to_vec(),
    };
    let whole = made.token.as_str();
    for (request, told) in [
        (request("", "nodes/a", good.der()), "token: is required"),
        (request("x", "nodes/a", good.der()), "token: \"…\" must be a token"),
        (request(whole, "a", good.der()), "node: \"a\" must have the form nodes/{node}"),
        (request(whole, "nodes/a", &[]), "certificate_request: is required"),
        (request(whole, "nodes/a", &[1; 20_000]), "certificate_request: \"20000 bytes\" must be at most"),
        (request(whole, "nodes/a", &good.der()[1..]), "must be a PKCS #10 request"),
        (request(whole, "nodes/b", good.der()), "which is for \"a\""),
    ] {
        let status = client.join(request).await.unwrap_err();
        assert!(status.message().contains(told), "{status}");
    }
    join(&fixture, whole, "", &good).await.unwrap();
}

#[tokio::test]
async fn tokens_are_listed_without_their_secrets_and_can_be_taken_away() {
    let fixture = start().await;
    let made = token(&fixture, CreateJoinTokenRequest { uses: 3, ..CreateJoinTokenRequest::default() }).await;
    let mut client = IdentityServiceClient::new(fixture.channel(IssuedRole::Reader, "eve").await);
    let listed = client.list_join_tokens(ListJoinTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.tokens, [Made { token: String::new(), ..made.clone() }]);
    let request = loden_proto::v1::DeleteJoinTokenRequest { name: made.name.clone() };
    let mut admin = IdentityServiceClient::new(fixture.admin().await);
    admin.delete_join_token(request.clone()).await.unwrap();
    assert_eq!(admin.delete_join_token(request).await.unwrap_err().code(), Code::NotFound);
    let status = join(&fixture, &made.token, "a", &KeyRequest::new().unwrap()).await.unwrap_err();
    assert!(Reason::TokenInvalid.is_of(&status), "{status}");
}

#[tokio::test]
async fn a_node_gets_another_certificate_for_another_key_and_no_one_elses() {
    let fixture = start_with(|config| config.certificate_validity = Duration::from_secs(7200)).await;
    let made = token(&fixture, for_node("a")).await;
    let first = join(&fixture, &made.token, "", &KeyRequest::new().unwrap()).await.unwrap();
    let key = KeyRequest::new().unwrap();
    let request = RenewCertificateRequest { certificate_request: key.der().to_vec() };
    let mut client = IdentityServiceClient::new(inside(&fixture, &first).await);
    let second = bundle(client.renew_certificate(request.clone()).await.unwrap().into_inner(), &key);
    assert_eq!(second.id(), first.id());
    let life = holder(&second).expires.duration_since(holder(&second).begins).unwrap();
    assert_eq!(life, Duration::from_secs(7200 + 300), "back-dated by five minutes");
    let mut admin = IdentityServiceClient::new(fixture.admin().await);
    assert_eq!(admin.renew_certificate(request.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let limited = loop {
        if let Err(status) = client.renew_certificate(request.clone()).await {
            break status;
        }
    };
    assert!(Reason::RateLimited.is_of(&limited) && retry_after(&limited).is_some(), "{limited}");
}

#[tokio::test]
async fn a_revoked_node_loses_its_stream_and_its_certificate_and_comes_back_by_a_token() {
    let fixture = start().await;
    let blue = create(&fixture.admin().await, "blue", "10.1.0.0/16").await;
    let made = token(&fixture, for_node("a")).await;
    let before = join(&fixture, &made.token, "", &KeyRequest::new().unwrap()).await.unwrap();
    let channel = inside(&fixture, &before).await;
    let lease = acquire(&channel, &blue, 1).await;
    let mut stream = watch(&channel, &blue.name, Some(1), Vec::new()).await.unwrap();
    stream.message().await.unwrap().unwrap();

    assert_eq!(revoke(&fixture, "b").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(revoke(&fixture, "a").await.unwrap(), 1);
    let ended = async { while let Ok(Some(_)) = stream.message().await {} };
    timeout(LONG, ended).await.expect("its stream ends");
    let credentials = Credentials::fixed(&before).unwrap();
    let refused = connect(&[address(&fixture)], &credentials, &ConnectOptions::default()).await.unwrap_err();
    assert!(refused.to_string().contains("it is revoked"), "{refused}");
    let mut nodes = NodeServiceClient::new(fixture.admin().await);
    let shown = nodes.get_node(GetNodeRequest { name: "nodes/a".into() }).await.unwrap().into_inner();
    assert!(shown.revoke_time.is_some() && !shown.connected, "{shown:?}");

    let made = token(&fixture, for_node("a")).await;
    let after = join(&fixture, &made.token, "", &KeyRequest::new().unwrap()).await.unwrap();
    assert_eq!(holder(&after).epoch, 1);
    let back = inside(&fixture, &after).await;
    assert_eq!(acquire(&back, &blue, 2).await.subnets, lease.subnets, "its own");

    let refused = nodes.delete_node(DeleteNodeRequest { name: "nodes/a".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("nodes/a is connected"), "it has no watch: {refused}");
    drop(back);
    let node = "a".parse().unwrap();
    let gone = async {
        while fixture.server.shared.registry.holds(&node) {
            yield_now().await;
        }
    };
    timeout(LONG, gone).await.expect("its connection ends");
    nodes.delete_node(DeleteNodeRequest { name: "nodes/a".into() }).await.unwrap();
    let gone = nodes.delete_node(DeleteNodeRequest { name: "nodes/a".into() }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
}

#[tokio::test]
async fn a_certificate_that_ends_while_its_connection_is_open_is_good_for_no_more_calls() {
    let fixture = start_with(|config| config.certificate_validity = Duration::from_secs(2)).await;
    let made = token(&fixture, for_node("a")).await;
    let short = join(&fixture, &made.token, "", &KeyRequest::new().unwrap()).await.unwrap();
    let mut client = IdentityServiceClient::new(inside(&fixture, &short).await);
    let key = KeyRequest::new().unwrap();
    let request = RenewCertificateRequest { certificate_request: key.der().to_vec() };
    let renewed = bundle(client.renew_certificate(request.clone()).await.unwrap().into_inner(), &key);
    let status = loop {
        match client.renew_certificate(request.clone()).await {
            Err(status) if !Reason::RateLimited.is_of(&status) => break status,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    assert!(Reason::CertificateExpired.is_of(&status), "{status}");
    assert_eq!(status.code(), Code::Unauthenticated);
    drop(renewed);
}
