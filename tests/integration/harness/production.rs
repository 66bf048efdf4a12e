//! Production servers, with issuers of their own.

use std::path::Path;

use super::bundle::Bundle;
use super::issuer::{Issuer, approving};
use super::server::{Mode, Options};

/// The audience of all of these credentials.
pub const AUDIENCE: &str = "countersign";

/// A tenant with one issuer that may name anybody.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its issuer.
    pub issuer: Issuer,
    /// Its bundle: the example's, with the accounts of this issuer.
    pub bundle: Bundle,
    /// The id of its key, if it is published as a key set.
    key_id: Option<String>,
}

impl Tenant {
    /// A tenant and its issuer `https://NAME.example.com`.
    pub fn new(name: &str) -> Self {
        let issuer = Issuer::new(&format!("https://{name}.example.com"), AUDIENCE);
        let bundle = Bundle::example().edit(|files| {
            let entities = files.get_mut("entities.json").unwrap();
            *entities = entities.replace(countersign::config::DEV_ISSUER, &issuer.name);
        });
        Self { name: name.to_owned(), issuer, bundle, key_id: None }
    }

    /// As [`Self::new`], with the key in a JSON Web Key Set under an id.
    pub fn with_key_id(name: &str, key_id: &str) -> Self {
        Self { key_id: Some(key_id.to_owned()), ..Self::new(name) }
    }

    /// Its part of the configuration, with its key in a file below `dir`.
    fn toml(&self, dir: &Path) -> String {
        let keys = dir.join(format!("{}.keys", self.name));
        let text = self.key_id.as_deref().map_or_else(|| self.issuer.public_pem(), |id| self.issuer.jwks(id));
        std::fs::write(&keys, text).unwrap();
        let Self { name, issuer, bundle, key_id: _ } = self;
        format!(
            "[tenants.{name}]\nbundle = {:?}\nlog_origin = \"countersign.example.com/{name}\"\n\
             [[tenants.{name}.issuers]]\nissuer = {:?}\naudience = {:?}\nalgorithms = [\"EdDSA\"]\nkeys = {keys:?}\n\
             subjects = [\"person\", \"agent\", \"service\"]\n\
             approving = {{ audience = {:?}, max_age_seconds = 3600, amr = [\"hwk\", \"mfa\"] }}\n",
            bundle.path(),
            issuer.name,
            issuer.audience,
            approving(&issuer.audience),
        )
    }
}

/// The configuration of a production server for these tenants. `dir` must live as long as the server; `more` are further
/// TOML tables.
pub fn toml(dir: &Path, tenants: &[&Tenant], more: &str) -> String {
    let tenants: Vec<String> = tenants.iter().map(|tenant| tenant.toml(dir)).collect();
    format!("[server]\ndata_dir = \"{{data}}\"\n{more}\n{}", tenants.join("\n"))
}

/// As [`toml`], to be started.
pub fn options(dir: &Path, tenants: &[&Tenant], more: &str) -> Options {
    Options { mode: Mode::Production(toml(dir, tenants, more)), ..Options::default() }
}
