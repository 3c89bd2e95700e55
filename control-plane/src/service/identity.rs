//! IdentityService: tokens, joining, renewing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loden_proto::InvalidValue;
use loden_proto::convert::{TokenOrder, timestamp};
use loden_proto::model::{JoinToken, Secret, TokenId};
use loden_proto::names::{self, NodeId};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::identity_service_server::IdentityService;
use loden_proto::v1::{
    self, CreateJoinTokenRequest, DeleteJoinTokenRequest, GetAuthorityRequest, JoinRequest, JoinResponse,
    ListJoinTokensRequest, ListJoinTokensResponse, RenewCertificateRequest, RotateAuthorityRequest,
};
use rand::RngCore;
use tonic::{Code, Request, Response, Status};

use super::access::Caller;
use super::network::wrong_answer;
use super::page::Page;
use super::refusal::failed;
use super::{Shared, authority, caller};
use crate::audit::A_HOST;
use crate::clerk::{Answer, SubmitError};
use crate::identity::{AuthorityError, CertificateRequest};
use crate::ledger::{Command, Joiner, Refusal, Shut, Token, digest};
use crate::registry::Link;

/// How often a name is taken at random until it is nobody's.
const NAMES: usize = 16;
/// What is kept of a name that may be none, in characters: as long as a DNS name.
const LONGEST_NAME: usize = 253 + "nodes/".len();

pub(super) struct Identities(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let link = request.extensions().get::<Arc<Link>>().cloned();
        let link = link.ok_or_else(|| Status::internal("the call came over no connection"))?;
        let request = request.into_inner();
        let token = request.token.parse().map(|token: JoinToken| format!(" with {}", names::token(token.id)));
        let to = |node: &str| format!("{node}{}", token.unwrap_or_default());
        // Whatever a stranger sends is in a log.
        let asked: String = request.node.chars().take(LONGEST_NAME).collect();
        let joined = self.let_in(&link, request).await;
        let (audit, from) = (&self.0.audit, link.remote);
        match &joined {
            Ok(joined) => audit.done(&A_HOST, Some(from), "Join", &to(&joined.node)),
            Err(status) => audit.turned_away(from, None, "Join", &to(&asked), status.message()),
        }
        joined.map(Response::new)
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let caller = caller(&request)?;
        let node = caller.node()?;
        let renewed = self.renew(&caller, node, request.get_ref());
        self.0.audit.outcome(&caller, &names::node(node), renewed).map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<v1::JoinToken>, Status> {
        let caller = caller(&request)?;
        let order = TokenOrder::try_from(request.into_inner())?;
        let whose = order.node.as_ref().map_or_else(|| "any new node".to_owned(), names::node);
        let made = self.create(order).await;
        let to = made.as_ref().map_or_else(|_| whose.clone(), |token| format!("{} for {whose}", token.name));
        self.0.audit.outcome(&caller, &to, made).map(Response::new)
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        let ListJoinTokensRequest { page_size, page_token } = request.into_inner();
        let page = Page::new("", page_size, &page_token)?;
        let after: Option<TokenId> = page.after(str::parse)?;
        let now = SystemTime::now();
        Ok(Response::new(self.0.clerk.read(|ledger| {
            let good = ledger.tokens(after).filter(|token| token.expires > now);
            let (tokens, next_page_token) = page.take(good, |token| token.id.to_string(), to_wire);
            ListJoinTokensResponse { tokens, next_page_token, revision: ledger.revision().0 }
        })))
    }

    async fn get_authority(
        &self,
        _: Request<GetAuthorityRequest>,
    ) -> Result<Response<v1::Authority>, Status> {
        Ok(Response::new(authority::view(&self.0).await))
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<v1::Authority>, Status> {
        let caller = caller(&request)?;
        let request = request.get_ref();
        let rotated = authority::rotate(&self.0, request).await;
        let to = request.step().as_str_name();
        self.0.audit.outcome(&caller, to, rotated).map(Response::new)
    }

    async fn delete_join_token(
        &self,
        request: Request<DeleteJoinTokenRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = caller(&request)?;
        let name = request.into_inner().name;
        let id = names::parse_token(&name).map_err(|invalid| invalid.at("name"))?;
        let deleted = self.0.clerk.submit(Command::DeleteToken { id }).await.map_err(failed);
        self.0.audit.outcome(&caller, &name, deleted)?;
        Ok(Response::new(()))
    }
}

impl Identities {
    async fn let_in(&self, link: &Link, request: JoinRequest) -> Result<JoinResponse, Status> {
        self.0.limits.join(link.remote).map_err(|wait| limited(&link.remote.ip().to_string(), wait))?;
        let JoinRequest { token, node, certificate_request } = request;
        if token.is_empty() {
            return Err(InvalidValue::missing("token").into());
        }
        let token: JoinToken = token.parse().map_err(|invalid: InvalidValue| invalid.at("token"))?;
        let node = Some(node).filter(|node| !node.is_empty());
        let node = node.map(|node| names::parse_node(&node).map_err(|invalid| invalid.at("node")));
        let node = node.transpose()?;
        let request = read(&certificate_request)?;
        let key = request.hash().to_owned();
        let connected = node.as_ref().is_some_and(|node| self.0.registry.holds(node));
        let joiner = Joiner { token: token.id, secret: hash(token.secret), node, key, connected };
        let member = match self.0.clerk.submit(Command::Join(joiner)).await.map_err(failed)? {
            Answer::Member(member) => member,
            other => return Err(wrong_answer(&other)),
        };
        let certificate = self.certify(&member.node, &request, member.epoch)?;
        Ok(JoinResponse { node: names::node(&member.node), certificate: Some(certificate) })
    }

    async fn create(&self, order: TokenOrder) -> Result<v1::JoinToken, Status> {
        let root = self.0.signer.root().map_err(unmade)?;
        for _ in 0..NAMES {
            let mut secret = [0; 16];
            rand::rng().fill_bytes(&mut secret);
            let token = JoinToken { id: TokenId(rand::random()), secret: Secret(secret), root };
            let command =
                Command::CreateToken { id: token.id, secret: hash(token.secret), order: order.clone() };
            match self.0.clerk.submit(command).await {
                Ok(Answer::Token(made)) => {
                    return Ok(v1::JoinToken { token: token.to_string(), ..to_wire(&made) });
                }
                Ok(other) => return Err(wrong_answer(&other)),
                Err(SubmitError::Refused(Refusal::Exists(_))) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Status::internal("no name for a token was free"))
    }

    fn renew(
        &self,
        caller: &Caller,
        node: &NodeId,
        request: &RenewCertificateRequest,
    ) -> Result<v1::Certificate, Status> {
        let shared = &self.0;
        shared.limits.renew(node).map_err(|wait| limited(&caller.id.to_string(), wait))?;
        let request = read(&request.certificate_request)?;
        // It may have been shut out since its call began. Whoever is from here on is so with this certificate too.
        if caller.epoch < shared.clerk.read(|ledger| ledger.identity_epoch(node)) {
            return Err(failed(Refusal::from(Shut::Revoked(node.clone())).into()));
        }
        self.certify(node, &request, caller.epoch)
    }

    fn certify(
        &self,
        node: &NodeId,
        request: &CertificateRequest,
        epoch: u32,
    ) -> Result<v1::Certificate, Status> {
        let now = SystemTime::now();
        self.0.signer.certify(node.clone(), request, epoch, now).map_err(unmade)
    }
}

fn read(request: &[u8]) -> Result<CertificateRequest, InvalidValue> {
    const FIELD: &str = "certificate_request";
    if request.is_empty() {
        return Err(InvalidValue::missing(FIELD));
    }
    CertificateRequest::from_der(request).map_err(|invalid| invalid.at(FIELD))
}

/// What is kept of a secret: it is random and long, so that nobody finds it by its hash.
fn hash(secret: Secret) -> String {
    digest(&secret.0)
}

fn limited(who: &str, wait: Duration) -> Status {
    let message = format!("{who} asks for certificates too often, or too many others do");
    reason::status_retry(Code::ResourceExhausted, Reason::RateLimited, message, wait)
}

fn unmade(error: AuthorityError) -> Status {
    tracing::error!(%error, "no certificate can be made");
    Status::failed_precondition(format!("the CA makes no certificate: {error}"))
}

fn to_wire(token: &Token) -> v1::JoinToken {
    let Token { id, node, networks, left, created, expires } = token;
    v1::JoinToken {
        name: names::token(*id),
        node: node.as_ref().map(names::node).unwrap_or_default(),
        networks: networks.iter().flatten().map(names::network).collect(),
        uses_left: *left,
        create_time: Some(timestamp(*created)),
        expire_time: Some(timestamp(*expires)),
        token: String::new(),
    }
}
