//! `AuditService`.

use countersign_audit::{Hash, leaf_hash};
use countersign_core::Timestamp;
use countersign_engine::{Error, Prune, Pruned, Replayable};
use serde::Deserialize;
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::convert::{hashes, page_size, timestamp};
use super::errors::Failure;
use crate::proto::audit_service_server::AuditService;
use crate::proto::{
    GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest, GetConsistencyProofResponse,
    GetInclusionProofRequest, GetInclusionProofResponse, ListRecordsRequest, ListRecordsResponse, PruneLogRequest,
    PruneLogResponse, Record, SearchRecordsRequest, SearchRecordsResponse,
};

/// Reads the log.
#[derive(Clone)]
pub struct Audit(pub Backend);

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListRecordsRequest { start, page_size: size, page_token } = message;
            let start = match page_token.as_str() {
                "" => start,
                token => token.parse().map_err(|_| Failure::field("page_token", "not one of this service's"))?,
            };
            let size = page_size(size, 100, 1_000)?;
            let (entries, next) = verified.engine.records(&verified.call, start, size).await?;
            let records = entries.into_iter().map(|(index, content)| record(index, &content)).collect();
            let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
            Ok(ListRecordsResponse { records, next_page_token })
        };
        self.0.handle("ListRecords", request, |_| "", run).await
    }

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let Verified { engine, call, .. } = &verified;
            let head = match message {
                GetCheckpointRequest { published: true, tree_size: 0 } => engine.published(call).await?,
                GetCheckpointRequest { published: true, tree_size: _ } => {
                    return Err(Failure::field("tree_size", "expected none where the published head is asked for"));
                }
                GetCheckpointRequest { published: false, tree_size: 0 } => engine.checkpoint(call).await?,
                GetCheckpointRequest { published: false, tree_size } => engine.checkpoint_at(call, tree_size).await?,
            };
            Ok(GetCheckpointResponse {
                minimum_index: engine.minimum_index().await?,
                tree_size: head.note.unverified().size(),
                note: head.note.to_string(),
                verifier_key: head.verifier.to_string(),
            })
        };
        self.0.handle("GetCheckpoint", request, |_| "", run).await
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let GetInclusionProofRequest { index, tree_size } = message;
            let (leaf, proof) = verified.engine.inclusion(&verified.call, index, tree_size).await?;
            Ok(GetInclusionProofResponse { leaf_hash: leaf.as_bytes().to_vec(), hashes: hashes(proof) })
        };
        self.0.handle("GetInclusionProof", request, |_| "", run).await
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let GetConsistencyProofRequest { old_tree_size, new_tree_size } = message;
            let proof = verified.engine.consistency(&verified.call, old_tree_size, new_tree_size).await?;
            Ok(GetConsistencyProofResponse { hashes: hashes(proof) })
        };
        self.0.handle("GetConsistencyProof", request, |_| "", run).await
    }

    async fn search_records(
        &self,
        request: Request<SearchRecordsRequest>,
    ) -> Result<Response<SearchRecordsResponse>, Status> {
        let run = |verified: Verified, message| async move { super::questions::search(&verified, message).await };
        self.0.handle("SearchRecords", request, |_| "", run).await
    }

    async fn prune_log(&self, request: Request<PruneLogRequest>) -> Result<Response<PruneLogResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let PruneLogRequest { minimum_index, root, archive, request_id: _ } = message;
            let root = Hash::try_from(root.as_slice()).map_err(|error| Failure::field("root", error.to_string()))?;
            let prune = Prune { minimum_index, root, archive };
            let Replayable { answer, replayed } = to_its_end(async move {
                let Verified { engine, call, .. } = verified;
                let pruned = engine.prune(&call, &prune).await?;
                let Pruned { from, minimum_index } = pruned.answer;
                tracing::info!(tenant = %engine.tenant(), from, minimum_index, replayed = pruned.replayed, "pruned the log");
                Ok::<_, Error>(pruned)
            })
            .await?;
            let Pruned { from, minimum_index } = answer;
            Ok(PruneLogResponse { from, minimum_index, replayed })
        };
        self.0.handle("PruneLog", request, |m| &m.request_id, run).await
    }
}

/// A record, for the wire.
pub(super) fn record(index: u64, content: &[u8]) -> Record {
    #[derive(Deserialize)]
    struct Head {
        at: Timestamp,
        kind: String,
    }
    let head = serde_json::from_slice::<Head>(content).ok();
    Record {
        index,
        kind: head.as_ref().map(|head| head.kind.clone()).unwrap_or_default(),
        recorded_at: head.map(|head| timestamp(head.at)),
        content: content.to_vec(),
        leaf_hash: leaf_hash(content).to_string(),
    }
}
