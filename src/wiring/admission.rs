//! What the configuration asks of a bundle before it becomes active: authors' signatures, and proofs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_audit::NoteVerifier;
use countersign_core::Digest;
use countersign_engine::{Admission, Admitted};
use countersign_policy::{Bundle, SIGNATURES};
use countersign_prove::{Places, Property, find_solver, properties, prove_all};
use tokio::sync::{OnceCell, Semaphore};

use crate::authors;
use crate::config::PublishingConfig;

/// `[tenants.NAME.publishing]`, ready to judge.
pub(super) struct Requirements {
    name: Option<String>,
    authors: Vec<NoteVerifier>,
    signatures: usize,
    proofs: bool,
    solver: Option<PathBuf>,
    proving: Semaphore,
    /// What was proved since the server started, and what is being proved: going back must not take long.
    proofs_of: Mutex<BTreeMap<Digest, Arc<OnceCell<()>>>>,
}

/// How long the proofs about one bundle may take together.
const MAX_PROOF: Duration = Duration::from_secs(15 * 60);
/// How many bundles are proved at once: one that takes long does not keep out another that is urgent.
const MAX_PROVING: usize = 2;

impl Requirements {
    pub(super) fn new(config: &PublishingConfig) -> Self {
        let PublishingConfig { bundle_name, authors, signatures, proofs, solver, watch: _ } = config;
        // The configuration was checked: what cannot be parsed did not get here, and would be missing, not accepted.
        let authors: Vec<NoteVerifier> = authors.iter().filter_map(|key| key.parse().ok()).collect();
        let signatures = if config.authors.is_empty() { 0 } else { *signatures as usize };
        Self {
            name: bundle_name.clone(),
            authors,
            signatures,
            proofs: *proofs,
            solver: solver.clone(),
            proving: Semaphore::new(MAX_PROVING),
            proofs_of: Mutex::default(),
        }
    }
}

impl fmt::Debug for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requirements").field("signatures", &self.signatures).field("proofs", &self.proofs).finish()
    }
}

impl Admission for Requirements {
    fn admit(&self, bundle: &Bundle) -> Result<Admitted, String> {
        if let Some(name) = self.name.as_ref().filter(|name| *name != bundle.name()) {
            return Err(format!("it is called `{}`, and the configuration asks for `{name}`", bundle.name()));
        }
        let signers = authors::require(bundle, &self.authors, self.signatures).map_err(|error| error.to_string())?;
        let proved = if self.proofs { self.proved(bundle)? } else { Vec::new() };
        Ok(Admitted { signed_by: signers.into_iter().collect(), proved })
    }
}

impl Requirements {
    /// Whether everything that is stated about the bundle is proved. Runs on a thread that may block.
    fn proved(&self, bundle: &Bundle) -> Result<Vec<String>, String> {
        let wanted = properties(bundle).map_err(|error| error.to_string())?;
        let what = proved_of(bundle);
        let Ok(mut proofs) = self.proofs_of.lock() else {
            return Err("a proof broke off; restart the server".to_owned());
        };
        let proof = Arc::clone(proofs.entry(what).or_default());
        drop(proofs);
        // Whoever asks about the same bundle meanwhile waits for the same proof.
        let proved = proof.get_or_try_init(|| self.prove(bundle, &wanted));
        tokio::runtime::Handle::current().block_on(proved)?;
        Ok(wanted.into_iter().map(|property| property.id).collect())
    }

    async fn prove(&self, bundle: &Bundle, wanted: &[Property]) -> Result<(), String> {
        let Ok(_turn) = self.proving.try_acquire() else {
            return Err(format!("{MAX_PROVING} bundles are being proved already; try again when they are done"));
        };
        let solver = find_solver(&Places::here(self.solver.clone())).map_err(|error| error.to_string())?;
        match tokio::time::timeout(MAX_PROOF, prove_all(bundle, wanted, &solver)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(open)) => Err(format!("`{open}` is not proved; see why with `countersign policy prove`")),
            Err(_) => Err(format!("it is not proved within {} minutes", MAX_PROOF.as_secs() / 60)),
        }
    }
}

/// What names a bundle with the properties that are stated about it.
fn proved_of(bundle: &Bundle) -> Digest {
    let files = bundle.source().files().iter().filter(|(path, _)| *path != SIGNATURES);
    let parts: Vec<&[u8]> = files.flat_map(|(path, text)| [path.as_bytes(), text.as_bytes()]).collect();
    Digest::of_parts(&parts)
}
