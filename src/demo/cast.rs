//! Who plays: the names of the example bundle, each with a credential of its own.

use std::time::Duration;

use countersign::client::{Client, ClientConfig, Credentials};

use crate::cli::Failure;
use crate::cli::development::{DevIssuer, credential};

/// The enforcement point.
pub const AUDIENCE: &str = "warehouse";
/// How long the credentials are good for: an afternoon of trying things out.
const TTL: Duration = Duration::from_secs(8 * 3600);

/// The players, each calling by itself.
pub struct Cast {
    /// The agent `etl-bot`, acting for olivia.
    pub agent: Client,
    /// olivia herself, who operates the agent. She is a data owner too.
    pub operator: Client,
    /// dana, a data owner.
    pub dana: Client,
    /// dave, a data owner.
    pub dave: Client,
    /// The service in front of the warehouse.
    pub warehouse: Client,
    /// aaron, who may read the log.
    pub auditor: Client,
    /// The agent's credential.
    pub agent_token: String,
    /// dana's credential.
    pub dana_token: String,
    /// The enforcement point's credential.
    pub warehouse_token: String,
    /// aaron's credential.
    pub auditor_token: String,
}

impl Cast {
    /// Gives everybody a credential and a connection.
    pub async fn connect(endpoint: &str, issuer: &DevIssuer) -> Result<Self, Failure> {
        let token = |subject: &str, operator: Option<&str>| credential(issuer, subject, operator, &[], TTL);
        let agent_token = token("agent:etl-bot", Some("olivia"))?;
        let (dana_token, auditor_token) = (token("dana", None)?, token("aaron", None)?);
        let warehouse_token = token("service:warehouse-gateway", None)?;
        let agent =
            Client::connect(ClientConfig::new(endpoint).credentials(Credentials::bearer(agent_token.as_str()))).await?;
        let client = |token: &str| agent.with_credentials(Credentials::bearer(token));
        Ok(Self {
            operator: client(&token("olivia", None)?),
            dana: client(&dana_token),
            dave: client(&token("dave", None)?),
            warehouse: client(&warehouse_token),
            auditor: client(&auditor_token),
            agent,
            agent_token,
            dana_token,
            warehouse_token,
            auditor_token,
        })
    }
}
