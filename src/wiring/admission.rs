//! What the configuration asks of a bundle before it becomes active: authors' signatures, and proofs.

use std::fmt;
use std::path::PathBuf;

use countersign_audit::NoteVerifier;
use countersign_engine::{Admission, Admitted};
use countersign_policy::Bundle;
use countersign_prove::{Places, Verdict, find_solver, properties, prove};

use crate::authors;
use crate::config::PublishingConfig;

/// `[tenants.NAME.publishing]`, ready to judge.
pub(super) struct Requirements {
    name: Option<String>,
    authors: Vec<NoteVerifier>,
    signatures: usize,
    proofs: bool,
    solver: Option<PathBuf>,
}

impl Requirements {
    pub(super) fn new(config: &PublishingConfig) -> Self {
        let PublishingConfig { bundle_name, authors, signatures, proofs, solver, watch: _ } = config;
        // The configuration was checked: what cannot be parsed did not get here, and would be missing, not accepted.
        let authors: Vec<NoteVerifier> = authors.iter().filter_map(|key| key.parse().ok()).collect();
        let signatures = if config.authors.is_empty() { 0 } else { *signatures as usize };
        Self { name: bundle_name.clone(), authors, signatures, proofs: *proofs, solver: solver.clone() }
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
        let solver = find_solver(&Places::here(self.solver.clone())).map_err(|error| error.to_string())?;
        let proofs = prove(bundle, &wanted, &solver, |_| ());
        let proofs = tokio::runtime::Handle::current().block_on(proofs);
        let open: Vec<String> = wanted
            .iter()
            .zip(&proofs)
            .filter(|(_, proof)| proof.verdict() != Verdict::Proved)
            .map(|(property, _)| format!("`{}`", property.id))
            .collect();
        // As many proofs as properties, or something was not looked at.
        if open.is_empty() && proofs.len() == wanted.len() {
            return Ok(wanted.into_iter().map(|property| property.id).collect());
        }
        Err(format!("{} not proved; see why with `countersign policy prove`", open.join(", ")))
    }
}
