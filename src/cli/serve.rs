//! `countersign serve` and `config`.

use std::path::{Path, PathBuf};

use clap::Args;
use countersign::config::{Config, Overrides};

use super::development::{DEV_DATA_DIR, EXAMPLE_BUNDLE, issuer};
use super::output::Output;
use super::{Exit, Failure};

pub const SERVE_EXAMPLES: &str = "Examples:\n  \
    countersign serve --dev\n  \
    countersign serve --dev --bundle policies/ai-platform --data-dir data/dev\n  \
    countersign serve --dev --shadow mine\n  \
    countersign serve --config /etc/countersign.toml";
pub const CONFIG_EXAMPLES: &str = "Examples:\n  \
    countersign config --config /etc/countersign.toml\n  \
    countersign config --dev --json";

/// How a server is to run.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Bring an issuer of its own, on loopback only, with data that production refuses
    #[arg(long)]
    dev: bool,
    /// The policy bundle of a development server
    #[arg(long, value_name = "DIR", requires = "dev", default_value = EXAMPLE_BUNDLE)]
    bundle: PathBuf,
    /// A bundle that a development server asks beside, and never answers by
    #[arg(long, value_name = "DIR", requires = "dev")]
    shadow: Option<PathBuf>,
    /// The time at which a development server's clock starts, to rehearse rules that depend on the time. It is the clock that
    /// decides about actions; credentials are still held against the real one
    #[arg(long, value_name = "RFC3339", requires = "dev")]
    clock: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

/// The same arguments: what would be run is printed instead.
pub type ConfigArgs = ServeArgs;

impl ServeArgs {
    fn config(&self) -> Result<Config, Failure> {
        let config = if self.dev {
            let start = self.clock.as_deref().map(rfc3339_millis).transpose()?;
            Config::development(Path::new(DEV_DATA_DIR), &self.bundle, &self.overrides).map(|mut config| {
                config.development_clock = start;
                config.tenants.values_mut().for_each(|tenant| tenant.shadow.clone_from(&self.shadow));
                config
            })
        } else {
            Config::load(None, &self.overrides)
        };
        config.map_err(|error| Failure::new(error.to_string()).reason("CONFIGURATION"))
    }
}

/// Serves until it is told to stop.
pub async fn serve(args: ServeArgs) -> Result<Exit, Failure> {
    let config = args.config()?;
    if config.is_development() {
        issuer(&config.server.data_dir)?;
    }
    countersign::wiring::serve(config).await.map_err(|error| Failure::new(error.to_string()).reason("NOT_SERVING"))?;
    Ok(Exit::Done)
}

/// Prints the effective configuration.
pub fn config(args: &ConfigArgs, output: &mut Output) -> Result<Exit, Failure> {
    let config = args.config()?;
    let toml = config.effective_toml().map_err(|error| Failure::new(error.to_string()))?;
    output.document(&config, &toml)?;
    Ok(Exit::Done)
}

fn rfc3339_millis(text: &str) -> Result<i64, Failure> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(|time| time.as_millisecond())
        .map_err(|error| Failure::usage(format!("`{text}` is not a time as in RFC 3339: {error}")))
}
