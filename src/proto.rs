//! The wire messages of `countersign.v1`, generated from `proto/` by `build.rs`.

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the documentation stands in the .proto files"
)]
#[allow(unused_qualifications, clippy::indexing_slicing, clippy::unwrap_used, reason = "generated")]
mod generated {
    tonic::include_proto!("countersign.v1");
}
pub use generated::*;

/// The protocol's descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("countersign.v1.descriptors");
