//! Questions that are put together. Each is a request of its own, with a digest, votes and an end of its own: what they share
//! is that people see that there are others.

use serde::{Deserialize, Serialize};

use crate::id::BatchId;

/// A question's place among those that it was put with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Together {
    /// The batch.
    pub id: BatchId,
    /// Its place in the batch, from 1.
    pub place: u32,
    /// How many the batch holds, whatever became of the others: some may have been refused, or pending already.
    pub of: u32,
}
