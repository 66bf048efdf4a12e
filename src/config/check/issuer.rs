//! What an issuer in the configuration must satisfy.

use countersign_core::EntityRef;
use countersign_core::visible::Visible;

use super::{DAY, filled, in_range, not_beyond, value};
use crate::config::issuer::{REFRESH_SECONDS, STALE_SECONDS};
use crate::config::{
    ApprovingConfig, ConfigError, DEV_ISSUER, GroupsConfig, IssuerConfig, KeySource, OwnerConfig, SubjectConfig,
    SubjectKind, TenantConfig, TrustDomainConfig,
};
use crate::identity::{address, spelled};

/// The range of `max_age_seconds`.
const MAX_AGE: (u32, u32) = (1, 366 * DAY);
/// The range of `refresh_seconds`.
const REFRESH: (u32, u32) = (10, DAY);
/// The range of `stale_seconds`.
const STALE: (u32, u32) = (10, 7 * DAY);
/// The range of `approving.max_age_seconds`.
const FRESH: (u32, u32) = (1, DAY);
/// The longest `id_prefix`, in bytes.
const MAX_PREFIX_BYTES: usize = 64;
/// The most values in `groups.map`: what a vote remembers of a credential has to fit beside the other votes.
const MAX_MAPPED: usize = 32;
/// The longest issuer, audience, claim or method, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// What one issuer must satisfy by itself.
pub(super) fn issuer(key: &str, issuer: &IssuerConfig, development: bool) -> Result<(), ConfigError> {
    name(&format!("{key}.issuer"), &issuer.issuer)?;
    name(&format!("{key}.audience"), &issuer.audience)?;
    if issuer.issuer.contains('#') {
        let problem = "an account is written `issuer#subject`, so an issuer has no `#`".to_owned();
        return Err(value(&format!("{key}.issuer"), problem));
    }
    if issuer.issuer == DEV_ISSUER && !development {
        let problem = format!(
            "`{DEV_ISSUER}` is the issuer of development servers, and its credentials are no proof of anything; \
             configure your own, or start with `--dev`"
        );
        return Err(value(&format!("{key}.issuer"), problem));
    }
    if issuer.algorithms.is_empty() {
        let problem = "name at least one algorithm, such as `EdDSA` or `RS256`".to_owned();
        return Err(value(&format!("{key}.algorithms"), problem));
    }
    subject(key, issuer)?;
    if let Some(groups) = &issuer.groups {
        self::groups(&format!("{key}.groups"), groups)?;
    }
    if let Some(owner) = &issuer.owner {
        self::owner(&format!("{key}.owner"), owner, issuer)?;
    }
    if let Some(approving) = &issuer.approving {
        self::approving(&format!("{key}.approving"), approving, &issuer.audience, development)?;
    }
    if let Some(seconds) = issuer.max_age_seconds {
        in_range(&format!("{key}.max_age_seconds"), seconds, MAX_AGE.0, MAX_AGE.1, "seconds")?;
    }
    keys(key, issuer)
}

/// A name as an issuer writes it.
fn name(key: &str, text: &str) -> Result<(), ConfigError> {
    if text.trim() != text || text.is_empty() || text.len() > MAX_NAME_BYTES || !visible(text) {
        let problem = format!(
            "1 to {MAX_NAME_BYTES} bytes without invisible characters or spaces at its ends; \
             copy it exactly as the issuer writes it"
        );
        return Err(value(key, problem));
    }
    Ok(())
}

fn visible(text: &str) -> bool {
    let shown = text.replace('\\', "");
    Visible::new(&shown).to_string() == shown
}

/// That subjects are read in one way, and by claims that can be.
fn subject(key: &str, issuer: &IssuerConfig) -> Result<(), ConfigError> {
    let IssuerConfig { subjects, subject, id_prefix, required, .. } = issuer;
    match subject {
        None if subjects.is_empty() => {
            let problem = "name at least one of `person`, `agent` and `service`, or say with `subject` who is named";
            return Err(value(&format!("{key}.subjects"), problem.to_owned()));
        }
        Some(_) if !subjects.is_empty() => {
            let problem = "means nothing beside `subject`, which says of which kind they are; remove one of them";
            return Err(value(&format!("{key}.subjects"), problem.to_owned()));
        }
        None | Some(_) => {}
    }
    prefix(key, id_prefix)?;
    if !id_prefix.is_empty() && named(issuer).next().is_none() {
        let problem = "means nothing for accounts of people, which have their issuer in them; remove it".to_owned();
        return Err(value(&format!("{key}.id_prefix"), problem));
    }
    if let Some(SubjectConfig { claim, starts_with, .. }) = subject {
        self::claim(&format!("{key}.subject.claim"), claim)?;
        if starts_with.len() > MAX_NAME_BYTES || !visible(starts_with) {
            let problem = format!("at most {MAX_NAME_BYTES} bytes without invisible characters");
            return Err(value(&format!("{key}.subject.starts_with"), problem));
        }
    }
    required.keys().try_for_each(|claim| self::claim(&format!("{key}.required"), claim))
}

/// That each value of the claim means one group, and can be the value of a claim.
fn groups(key: &str, groups: &GroupsConfig) -> Result<(), ConfigError> {
    let GroupsConfig { claim, map } = groups;
    self::claim(&format!("{key}.claim"), claim)?;
    let key = format!("{key}.map");
    if map.is_empty() || map.len() > MAX_MAPPED {
        let problem = format!("expected 1 to {MAX_MAPPED} values, each with the id of a group");
        return Err(value(&key, problem));
    }
    for (said, id) in map {
        if let Err(problem) = spelled(said) {
            let problem = format!("the value `{}` {problem}, so no claim can have it", Visible::cut(said, 64));
            return Err(value(&key, problem));
        }
        if let Err(problem) = spelled(id)
            .map_err(str::to_owned)
            .and_then(|()| EntityRef::new("Group", id).map(drop).map_err(|error| error.to_string()))
        {
            return Err(value(&key, format!("`{}` is not the id of a group: {problem}", Visible::cut(id, 64))));
        }
    }
    Ok(())
}

/// That an owner can be an account of somebody, and is one of somebody's.
fn owner(key: &str, owner: &OwnerConfig, of: &IssuerConfig) -> Result<(), ConfigError> {
    let OwnerConfig { claim, issuer } = owner;
    if named(of).next().is_none() {
        let problem = "means nothing for people, who answer for themselves; remove it".to_owned();
        return Err(value(key, problem));
    }
    self::claim(&format!("{key}.claim"), claim)?;
    if let Some(issuer) = issuer {
        let key = format!("{key}.issuer");
        name(&key, issuer)?;
        if issuer.contains('#') {
            return Err(value(&key, "an account is written `issuer#subject`, so an issuer has no `#`".to_owned()));
        }
    }
    Ok(())
}

/// The name of a claim, or a pointer to it.
fn claim(key: &str, text: &str) -> Result<(), ConfigError> {
    if text.is_empty() || text == "/" || text.len() > MAX_NAME_BYTES || !visible(text) {
        let problem = "not a claim; write its name, or a JSON pointer such as `/kubernetes.io/namespace`".to_owned();
        return Err(value(key, problem));
    }
    Ok(())
}

fn approving(key: &str, approving: &ApprovingConfig, everyday: &str, development: bool) -> Result<(), ConfigError> {
    let ApprovingConfig { audience, max_age_seconds, amr } = approving;
    name(&format!("{key}.audience"), audience)?;
    if audience == everyday {
        let problem = "the audience of all other calls too; voting and publishing need one of their own".to_owned();
        return Err(value(&format!("{key}.audience"), problem));
    }
    if amr.is_empty() {
        let problem = "name at least one method, such as `hwk` (a key in hardware) or `mfa`".to_owned();
        return Err(value(&format!("{key}.amr"), problem));
    }
    amr.iter().try_for_each(|method| name(&format!("{key}.amr"), method))?;
    if development {
        return Ok(());
    }
    in_range(&format!("{key}.max_age_seconds"), *max_age_seconds, FRESH.0, FRESH.1, "seconds")
}

/// The kinds of agents and services that an issuer names, and how their ids begin.
fn named(issuer: &IssuerConfig) -> impl Iterator<Item = (SubjectKind, String)> {
    let IssuerConfig { subjects, subject, id_prefix, .. } = issuer;
    let by_prefix = subjects.iter().map(move |kind| (*kind, id_prefix.clone()));
    let fixed = subject.iter().flat_map(move |SubjectConfig { kind, starts_with, actors, claim: _ }| {
        let subject = (*kind, format!("{id_prefix}{starts_with}"));
        [Some(subject), actors.map(|kind| (kind, id_prefix.clone()))]
    });
    by_prefix.chain(fixed.flatten()).filter(|(kind, _)| *kind != SubjectKind::Person)
}

/// Of the workloads of a trust domain, the same.
fn named_in(domain: &TrustDomainConfig) -> (SubjectKind, String) {
    (domain.kind, format!("{}spiffe://{}/", domain.id_prefix, domain.name))
}

/// Whether an issuer names the very workloads of a trust domain, with JWT-SVIDs, and nobody else of their kind. Whoever writes
/// exactly this says that both are of one authority.
fn is_of(issuer: &IssuerConfig, domain: &TrustDomainConfig) -> bool {
    let whole = |subject: &SubjectConfig| {
        let SubjectConfig { kind: _, claim, starts_with, actors } = subject;
        // Whatever another claim says, no authority of SPIFFE has.
        claim == "sub" && *starts_with == format!("spiffe://{}/", domain.name) && *actors != Some(domain.kind)
    };
    issuer.id_prefix == domain.id_prefix && issuer.subject.as_ref().is_some_and(whole)
}

/// That no two issuers or trust domains of a tenant can name the same agent or service: a policy that trusts it would trust both.
pub(super) fn apart(key: &str, tenant: &TenantConfig) -> Result<(), ConfigError> {
    let issuers = tenant
        .issuers
        .iter()
        .enumerate()
        .map(|(index, issuer)| (format!("{key}.issuers[{index}]"), named(issuer).collect(), Namer::Issuer(issuer)));
    let domains = tenant.trust_domains.iter().enumerate().map(|(index, domain)| {
        (format!("{key}.trust_domains[{index}]"), vec![named_in(domain)], Namer::Domain(domain))
    });
    let mut earlier: Vec<(String, SubjectKind, String, Namer<'_>)> = Vec::new();
    for (key, names, namer) in issuers.chain(domains) {
        let names: Vec<(SubjectKind, String)> = names;
        for (kind, prefix) in &names {
            let meets = |(_, theirs, begin, other): &&(String, SubjectKind, String, Namer<'_>)| {
                let one_authority = match (other, &namer) {
                    (Namer::Issuer(issuer), Namer::Domain(domain)) => is_of(issuer, domain),
                    (Namer::Issuer(_) | Namer::Domain(_), Namer::Issuer(_)) | (Namer::Domain(_), Namer::Domain(_)) => {
                        false
                    }
                };
                let meet = begin.starts_with(prefix.as_str()) || prefix.starts_with(begin.as_str());
                theirs == kind && meet && !one_authority
            };
            if let Some((other, ..)) = earlier.iter().find(meets) {
                let kind = if *kind == SubjectKind::Agent { "agents" } else { "services" };
                let problem = format!(
                    "`{other}` may name the same {kind}, and whoever is one of them would be two; give one of them an \
                     `id_prefix`, which its ids then begin with, or leave the kind out of its `subjects`"
                );
                return Err(value(&format!("{key}.id_prefix"), problem));
            }
        }
        earlier.extend(names.into_iter().map(|(kind, prefix)| (key.clone(), kind, prefix, namer)));
    }
    Ok(())
}

/// Who names agents and services.
#[derive(Clone, Copy)]
enum Namer<'a> {
    Issuer(&'a IssuerConfig),
    Domain(&'a TrustDomainConfig),
}

/// What one trust domain must satisfy by itself.
pub(super) fn trust_domain(key: &str, domain: &TrustDomainConfig, tls: bool) -> Result<(), ConfigError> {
    let TrustDomainConfig { name, ca, kind, id_prefix } = domain;
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > 255 || !name.bytes().all(letters) {
        let problem = "1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`, without `spiffe://`, such as `prod.example.com`";
        return Err(value(&format!("{key}.name"), problem.to_owned()));
    }
    if *kind == SubjectKind::Person {
        let problem =
            "a certificate of a workload proves nothing about a person; write `agent` or `service`".to_owned();
        return Err(value(&format!("{key}.kind"), problem));
    }
    if !tls {
        let problem = "client certificates come over TLS only; set `server.tls`".to_owned();
        return Err(value(key, problem));
    }
    prefix(key, id_prefix)?;
    filled(&format!("{key}.ca"), ca)
}

fn prefix(key: &str, id_prefix: &str) -> Result<(), ConfigError> {
    if id_prefix.len() > MAX_PREFIX_BYTES || !visible(id_prefix) || id_prefix.trim_start() != id_prefix {
        let problem = format!("at most {MAX_PREFIX_BYTES} bytes without invisible characters or a space in front");
        return Err(value(&format!("{key}.id_prefix"), problem));
    }
    Ok(())
}

/// Exactly one place for the keys, one that may be asked, and nothing said that would be ignored.
fn keys(key: &str, issuer: &IssuerConfig) -> Result<(), ConfigError> {
    let IssuerConfig { ca, jwks_token, refresh_seconds, stale_seconds, .. } = issuer;
    let Some(source) = issuer.key_source() else {
        let problem = "say in exactly one way where its keys are: `keys`, `jwks_uri` or `discovery = true`".to_owned();
        return Err(value(key, problem));
    };
    match source {
        KeySource::File(path) => {
            if path.to_str().is_some_and(|keys| keys.contains("://")) {
                let problem = "a local file; an address that keys are fetched from is a `jwks_uri`".to_owned();
                return Err(value(&format!("{key}.keys"), problem));
            }
            filled(&format!("{key}.keys"), path)?;
            let fetching = [
                ("ca", ca.is_some()),
                ("jwks_token", jwks_token.is_some()),
                ("refresh_seconds", *refresh_seconds != REFRESH_SECONDS),
                ("stale_seconds", *stale_seconds != STALE_SECONDS),
            ];
            if let Some((name, _)) = fetching.into_iter().find(|(_, given)| *given) {
                let problem = "means nothing for keys in a local file; remove it".to_owned();
                return Err(value(&format!("{key}.{name}"), problem));
            }
        }
        KeySource::Jwks(uri) => {
            address::parse(uri).map_err(|problem| value(&format!("{key}.jwks_uri"), problem.to_owned()))?;
        }
        KeySource::Discovery => {
            address::discovery(&issuer.issuer)
                .map_err(|problem| value(&format!("{key}.issuer"), format!("with `discovery`: {problem}")))?;
            if jwks_token.is_some() {
                // What a discovery document names must not be sent a secret.
                let problem = "is sent to a configured address only; write the `jwks_uri` instead of `discovery`";
                return Err(value(&format!("{key}.jwks_token"), problem.to_owned()));
            }
        }
    }
    for (name, path) in [("ca", ca), ("jwks_token", jwks_token)] {
        path.as_ref().map_or(Ok(()), |path| filled(&format!("{key}.{name}"), path))?;
    }
    let (refresh, stale) = (format!("{key}.refresh_seconds"), format!("{key}.stale_seconds"));
    in_range(&refresh, *refresh_seconds, REFRESH.0, REFRESH.1, "seconds")?;
    in_range(&stale, *stale_seconds, STALE.0, STALE.1, "seconds")?;
    not_beyond((&refresh, *refresh_seconds), (&stale, *stale_seconds))
}
