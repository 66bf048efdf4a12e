//! Signatures under bundles: `countersign policy author` and `countersign policy sign`.

use std::path::PathBuf;

use clap::Args;
use countersign::authors;
use countersign::keystore::write_atomically;
use countersign_audit::{NoteSigner, NoteVerifier};
use countersign_core::visible::Visible;
use countersign_policy::SIGNATURES;
use serde_json::json;
use zeroize::Zeroizing;

use super::args::read_secret;
use super::output::{GOOD, Output, paint};
use super::text::Lines;
use super::{Exit, Failure};

pub const AUTHOR_EXAMPLES: &str = "\
The file holds the secret and belongs to its owner alone. The public key that is printed goes into `authors` of \
`[tenants.NAME.publishing]`, from where a server takes no bundle that is not signed.

Examples:
  countersign policy author alice --out ~/.config/countersign/alice.key";
pub const SIGN_EXAMPLES: &str = "\
The signature is of the bundle's digest and stands in `bundle.sig`; those of others under the same content stay. Look at what you sign: \
`countersign policy diff` tells what it would change.

Examples:
  countersign policy sign policies/ai-platform --key @alice.key";

/// Whose key, and where.
#[derive(Debug, Args)]
pub struct AuthorArgs {
    /// Whose it is, without spaces: the id of their person. Who signed a bundle cannot approve its publication
    name: String,
    /// The file for the secret, which must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What is signed, and by whom.
#[derive(Debug, Args)]
pub struct SignArgs {
    #[command(flatten)]
    bundle: super::question::BundleDir,
    /// The author's secret key: `@FILE`, or `-` for stdin
    #[arg(long, value_name = "@FILE")]
    key: String,
}

/// Makes a key.
pub fn author(args: &AuthorArgs, output: &mut Output) -> Result<Exit, Failure> {
    if args.out.exists() {
        return Err(Failure::usage(format!("`{}` is there already", args.out.display())).hint("name another file"));
    }
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *seed).map_err(|error| Failure::new(format!("there is no randomness: {error}")))?;
    let signer = NoteSigner::from_seed(&args.name, &seed).map_err(|error| Failure::usage(error.to_string()))?;
    let text = Zeroizing::new(format!("{}\n", *signer.private_text()));
    write_atomically(&args.out, text.as_bytes(), 0o600)
        .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", args.out.display())))?;
    let public = signer.verifier().to_string();
    output.document(&json!({ "name": signer.name(), "public_key": public, "file": args.out }), &public)?;
    output.remark(&format!("the secret is in `{}`; the line above is public", args.out.display()));
    Ok(Exit::Done)
}

/// Signs a bundle.
pub fn sign(args: &SignArgs, output: &mut Output) -> Result<Exit, Failure> {
    let bundle = args.bundle.load()?;
    let key = Zeroizing::new(read_secret(&args.key, "key")?);
    let signer: NoteSigner = key.parse().map_err(|error| Failure::usage(format!("`--key`: {error}")))?;
    let note = authors::sign(&bundle, &signer).map_err(|error| Failure::new(error.to_string()))?;
    let path = args.bundle.dir.join(SIGNATURES);
    write_atomically(&path, note.to_string().as_bytes(), 0o644)
        .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", path.display())))?;
    let others: Vec<&str> =
        note.signatures().iter().filter(|made| made.id() != signer.id()).map(|made| made.name()).collect();
    let mut text = Lines::default();
    let name = Visible::new(bundle.name());
    text.line(format!("{} {name} revision {} as {}", paint(GOOD.bold(), "signed"), bundle.revision(), signer.name()));
    text.field("digest", bundle.digest());
    if !others.is_empty() {
        // Whoever wrote the file wrote the names.
        text.shown("beside", &format!("{} (not verified here; `policy check --author` does)", others.join(", ")));
    }
    let json = json!({ "digest": bundle.digest(), "signed_by": signer.name(), "beside": others, "file": path });
    output.document(&json, &text.finish())?;
    Ok(Exit::Done)
}

/// Public keys of authors, as they are given on a command line.
pub fn verifiers(keys: &[String]) -> Result<Vec<NoteVerifier>, Failure> {
    let parse = |key: &String| {
        let text = super::args::read_text(key, "author")?;
        text.trim().parse().map_err(|error| Failure::usage(format!("`--author`: {error}")))
    };
    keys.iter().map(parse).collect()
}
