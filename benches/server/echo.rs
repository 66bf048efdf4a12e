//! The floor of any answer over gRPC: the same library, protocol and message sizes, and nothing done.

use std::io::Write as _;
use std::path::Path;

use countersign::proto::capability_service_server::{CapabilityService, CapabilityServiceServer};
use countersign::proto::decision_service_server::{DecisionService, DecisionServiceServer};
use countersign::proto::{
    CompleteRequest, CompleteResponse, DecideBatchRequest, DecideBatchResponse, DecideRequest, DecideResponse,
    DelegateRequest, DelegateResponse, GetCapabilityRequest, GetCapabilityResponse, ListCapabilitiesRequest,
    ListCapabilitiesResponse, ListPublicKeysRequest, ListPublicKeysResponse, RedeemRequest, RedeemResponse,
    RevokeRequest, RevokeResponse,
};
use prost::Message as _;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::Result;

/// The files of a directory of answers.
pub const DECIDED: &str = "decided";
/// With a capability.
pub const MINTED: &str = "minted";
/// Of a redeem.
pub const REDEEMED: &str = "redeemed";

/// Answers everything with what the real server once answered.
#[derive(Clone)]
struct Echo {
    decided: DecideResponse,
    minted: DecideResponse,
    redeemed: RedeemResponse,
}

/// Serves until it is killed.
pub async fn serve(answers: &Path) -> Result<()> {
    let read = |name: &str| std::fs::read(answers.join(name));
    let echo = Echo {
        decided: DecideResponse::decode(read(DECIDED)?.as_slice())?,
        minted: DecideResponse::decode(read(MINTED)?.as_slice())?,
        redeemed: RedeemResponse::decode(read(REDEEMED)?.as_slice())?,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    writeln!(std::io::stdout().lock(), "{{\"endpoint\":\"http://{address}\"}}")?;
    tonic::transport::Server::builder()
        .add_service(DecisionServiceServer::new(echo.clone()))
        .add_service(CapabilityServiceServer::new(echo))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

fn not_echoed<T>() -> std::result::Result<T, Status> {
    Err(Status::unimplemented("not echoed"))
}

#[tonic::async_trait]
impl DecisionService for Echo {
    async fn decide(&self, request: Request<DecideRequest>) -> std::result::Result<Response<DecideResponse>, Status> {
        Ok(Response::new(if request.get_ref().mint { self.minted.clone() } else { self.decided.clone() }))
    }

    async fn decide_batch(
        &self,
        _: Request<DecideBatchRequest>,
    ) -> std::result::Result<Response<DecideBatchResponse>, Status> {
        not_echoed()
    }
}

#[tonic::async_trait]
impl CapabilityService for Echo {
    async fn redeem(&self, _: Request<RedeemRequest>) -> std::result::Result<Response<RedeemResponse>, Status> {
        Ok(Response::new(self.redeemed.clone()))
    }

    async fn complete(&self, _: Request<CompleteRequest>) -> std::result::Result<Response<CompleteResponse>, Status> {
        not_echoed()
    }

    async fn revoke(&self, _: Request<RevokeRequest>) -> std::result::Result<Response<RevokeResponse>, Status> {
        not_echoed()
    }

    async fn get_capability(
        &self,
        _: Request<GetCapabilityRequest>,
    ) -> std::result::Result<Response<GetCapabilityResponse>, Status> {
        not_echoed()
    }

    async fn list_capabilities(
        &self,
        _: Request<ListCapabilitiesRequest>,
    ) -> std::result::Result<Response<ListCapabilitiesResponse>, Status> {
        not_echoed()
    }

    async fn list_public_keys(
        &self,
        _: Request<ListPublicKeysRequest>,
    ) -> std::result::Result<Response<ListPublicKeysResponse>, Status> {
        not_echoed()
    }

    async fn delegate(&self, _: Request<DelegateRequest>) -> std::result::Result<Response<DelegateResponse>, Status> {
        not_echoed()
    }
}
