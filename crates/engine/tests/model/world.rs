//! The small world that the model plays in: who there is, what they may do, and the bundles that say so.
//!
//! Every table stands here twice: as a bundle, which the engine reads, and as plain functions, which the model reads. That
//! is the point: what Cedar makes of the bundle must be what a person would say it means.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::EntityRef;
use countersign_policy::Source;

/// The issuer of every credential.
pub const ISSUER: &str = "https://dev.countersign.invalid";

/// Everybody who can take part, and the enforcement points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    Bot,
    Bug,
    Gateway,
    Keeper,
    Erin,
    Eve,
    Pat,
    Olivia,
    Sam,
    Alice,
    Door,
    Gate,
}

use Party::{Alice, Bot, Bug, Door, Erin, Eve, Gate, Gateway, Keeper, Olivia, Pat, Sam};

/// Those who vote, or try to.
pub const PERSONS: [Party; 6] = [Erin, Eve, Pat, Olivia, Sam, Alice];

impl Party {
    pub const fn kind(self) -> &'static str {
        match self {
            Bot | Bug => "Agent",
            Gateway | Keeper => "Service",
            Erin | Eve | Pat | Olivia | Sam | Alice => "Person",
            Door | Gate => "EnforcementPoint",
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Bot => "bot",
            Bug => "bug",
            Gateway => "gateway",
            Keeper => "keeper",
            Erin => "erin",
            Eve => "eve",
            Pat => "pat",
            Olivia => "olivia",
            Sam => "sam",
            Alice => "alice",
            Door => "door",
            Gate => "gate",
        }
    }

    pub fn is_person(self) -> bool {
        self.kind() == "Person"
    }

    pub fn is_agent(self) -> bool {
        self.kind() == "Agent"
    }

    pub fn entity(self) -> EntityRef {
        EntityRef::new(self.kind(), self.name()).unwrap()
    }

    /// As JSON has it, read by `serde_json` and written again.
    pub fn entity_text(self) -> String {
        serde_json::json!({ "type": self.kind(), "id": self.name() }).to_string()
    }
}

/// The bundles. All have one revision, so that each may follow any other; but `Older` is older, and `Broken` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// What the service starts with.
    Base,
    /// A higher quorum for writing, and a final forbid for wiping.
    Tight,
    /// Writing asks nobody, and wiping fewer.
    Loose,
    /// The bot belongs to another person, who is an editor.
    Owner,
    /// One editor less.
    Member,
    Older,
    Broken,
}

pub const VARIANTS: [Variant; 7] =
    [Variant::Base, Variant::Tight, Variant::Loose, Variant::Owner, Variant::Member, Variant::Older, Variant::Broken];

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    Read,
    /// Asks one rule.
    Write,
    /// Asks two rules, of two groups.
    Wipe,
    /// Nobody may.
    Nuke,
    /// The schema knows no such thing.
    Fly,
    /// `Write` with text where the schema wants a number.
    Scribble,
}

pub const DEEDS: [Deed; 6] = [Deed::Write, Deed::Wipe, Deed::Read, Deed::Nuke, Deed::Fly, Deed::Scribble];

/// The rules that people can lift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    WipeSec,
    WipeTwo,
    WriteAsks,
}

impl Rule {
    pub const fn id(self) -> &'static str {
        match self {
            Self::WipeSec => "wipe-sec",
            Self::WipeTwo => "wipe-two",
            Self::WriteAsks => "write-asks",
        }
    }

    pub const fn ttl_millis(self) -> i64 {
        match self {
            Self::WipeSec => 5 * 60_000,
            Self::WipeTwo => 15 * 60_000,
            Self::WriteAsks => 2 * 60_000,
        }
    }
}

/// What a bundle says of a deed, leaving approvals aside.
pub enum Stance {
    Free,
    Never,
    Asks(Vec<Rule>),
}

impl Variant {
    pub fn stance(self, deed: Deed) -> Stance {
        match (self, deed) {
            (_, Deed::Read) | (Self::Loose, Deed::Write | Deed::Scribble) => Stance::Free,
            (_, Deed::Nuke | Deed::Fly) | (Self::Tight, Deed::Wipe) => Stance::Never,
            (_, Deed::Write | Deed::Scribble) => Stance::Asks(vec![Rule::WriteAsks]),
            (_, Deed::Wipe) => Stance::Asks(vec![Rule::WipeSec, Rule::WipeTwo]),
        }
    }

    /// How many a rule asks for; `None` where there is no such rule.
    pub const fn quorum(self, rule: Rule) -> Option<u32> {
        match (self, rule) {
            (Self::Loose, Rule::WriteAsks) => None,
            (Self::Tight, Rule::WriteAsks) => Some(2),
            (Self::Loose, Rule::WipeTwo) | (_, Rule::WriteAsks | Rule::WipeSec) => Some(1),
            (_, Rule::WipeTwo) => Some(2),
        }
    }

    /// Whether the `approve` policies permit it; who is excluded is another question.
    pub fn answers(self, rule: Rule, person: Party) -> bool {
        let editor = match person {
            Erin | Pat | Olivia => true,
            Eve => self != Self::Member,
            Sam | Alice | Bot | Bug | Gateway | Keeper | Door | Gate => false,
        };
        self.quorum(rule).is_some()
            && match rule {
                Rule::WipeSec => matches!(person, Sam | Erin),
                Rule::WipeTwo | Rule::WriteAsks => editor,
            }
    }

    /// As [`Self::answers`], of somebody who may be one of the editors by their credential alone.
    pub fn answers_as(self, rule: Rule, person: Party, editor: bool) -> bool {
        let by_claim = editor && rule != Rule::WipeSec && self.quorum(rule).is_some();
        by_claim || self.answers(rule, person)
    }

    pub fn owner(self, party: Party) -> Option<Party> {
        match party {
            Bot if self == Self::Owner => Some(Erin),
            Bot => Some(Olivia),
            Bug => Some(Eve),
            Gateway | Door => Some(Alice),
            Keeper => Some(Pat),
            Gate => Some(Sam),
            Erin | Eve | Pat | Olivia | Sam | Alice => None,
        }
    }

    /// Whose answer counts for nothing where these take part.
    pub fn excluded(self, parties: impl IntoIterator<Item = Party>) -> BTreeSet<Party> {
        parties
            .into_iter()
            .filter_map(|party| if party.is_person() { Some(party) } else { self.owner(party) })
            .collect()
    }

    pub fn source(self) -> Source {
        let revision = if self == Self::Older { 4 } else { 5 };
        let broken = if self == Self::Broken { "permit (principal, action, nonsense);" } else { "" };
        let files = [
            ("bundle.toml", format!("format = 1\nname = \"model\"\nrevision = {revision}\n")),
            ("schema.cedarschema", SCHEMA.to_owned()),
            ("entities.json", self.entities()),
            ("policies/work.cedar", format!("{}{broken}", self.work())),
            ("approve/people.cedar", self.approve()),
            ("admin/service.cedar", format!("{ADMIN}{}", self.glass())),
        ];
        let files: BTreeMap<String, String> = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        Source::from_files(files).unwrap()
    }

    fn entities(self) -> String {
        let person = |id: &str, groups: &[&str]| {
            let parents: Vec<String> = groups.iter().map(|g| format!(r#"{{"type":"Group","id":"{g}"}}"#)).collect();
            format!(
                r#"{{"uid":{{"type":"Person","id":"{id}"}},"attrs":{{"accounts":["{ISSUER}#{id}"]}},"parents":[{}]}}"#,
                parents.join(",")
            )
        };
        let owned = |party: Party| {
            format!(
                r#"{{"uid":{{"type":"{}","id":"{}"}},"attrs":{{"owner":{{"__entity":{{"type":"Person","id":"{}"}}}}}},"parents":[]}}"#,
                party.kind(),
                party.name(),
                self.owner(party).unwrap().name()
            )
        };
        let plain =
            |kind: &str, id: &str| format!(r#"{{"uid":{{"type":"{kind}","id":"{id}"}},"attrs":{{}},"parents":[]}}"#);
        let eve: &[&str] = if self == Self::Member { &[] } else { &["editors"] };
        let mut all = vec![
            plain("Group", "editors"),
            plain("Group", "security"),
            plain("Tenant", "acme"),
            plain("Doc", "d0"),
            plain("Doc", "d1"),
            person("erin", &["editors", "security"]),
            person("eve", eve),
            person("pat", &["editors"]),
            person("olivia", &["editors"]),
            person("sam", &["security"]),
            person("alice", &[]),
        ];
        all.extend([Bot, Bug, Gateway, Keeper, Door, Gate].map(owned));
        format!("[{}]", all.join(",\n"))
    }

    fn work(self) -> String {
        let asks = |rule: Rule, action: &str| {
            let id = rule.id();
            let offer = self
                .offers(rule)
                .map_or_else(String::new, |most| format!("@pre_approval(\"{} uses, {}s\") ", most.uses, most.seconds));
            self.quorum(rule).map_or_else(String::new, |quorum| {
                format!(
                    "@id(\"{id}\") @quorum(\"{quorum}\") @ttl(\"{}m\") @cooldown(\"0m\") {offer}@reason(\"because\")\n\
                     forbid (principal, action == Action::\"{action}\", resource)\n\
                     unless {{ context has approval && context.approval.rules.contains(\"{id}\") }};\n",
                    rule.ttl_millis() / 60_000
                )
            })
        };
        let never = if self == Self::Tight {
            "@id(\"wipe-never\") @reason(\"never\") forbid (principal, action == Action::\"wipe\", resource);\n"
        } else {
            ""
        };
        format!(
            "@id(\"work\") permit (principal, action in [Action::\"read\", Action::\"write\", Action::\"wipe\"], \
             resource is Doc);\n{}{}{}{never}",
            asks(Rule::WriteAsks, "write"),
            asks(Rule::WipeTwo, "wipe"),
            asks(Rule::WipeSec, "wipe"),
        )
    }

    /// Whether the `breakGlass` policies permit a person to lift these.
    pub fn breaks_glass(self, person: Party, rules: &BTreeSet<Rule>) -> bool {
        let only_writes = || rules.iter().all(|rule| *rule == Rule::WriteAsks);
        self != Self::Owner && (person == Erin || (person == Alice && only_writes()))
    }

    fn glass(self) -> &'static str {
        if self == Self::Owner { "" } else { GLASS }
    }

    fn approve(self) -> String {
        let editors = if self == Self::Loose { "[\"wipe-two\"]" } else { "[\"write-asks\", \"wipe-two\"]" };
        format!(
            "@id(\"editors-answer\") permit (principal in Group::\"editors\", action == Action::\"approve\", resource is Doc)\n\
             when {{ {editors}.contains(context.rule) }};\n\
             @id(\"security-answers\") permit (principal in Group::\"security\", action == Action::\"approve\", resource is Doc)\n\
             when {{ context.rule == \"wipe-sec\" }};\n"
        )
    }
}

const SCHEMA: &str = r"
entity Doc;
action read appliesTo { principal: [Agent, Person], resource: [Doc] };
action write appliesTo { principal: [Agent, Person], resource: [Doc], context: { input: { n: Long } } };
action wipe appliesTo { principal: [Agent, Person], resource: [Doc], context: { input: { n: Long } } };
action nuke appliesTo { principal: [Agent, Person], resource: [Doc], context: { input: { n: Long } } };
";

const ADMIN: &str = r#"
@id("own-sessions")
permit (principal, action == Action::"openSession", resource) when { principal == resource };
@id("gateway-speaks-for-agents")
permit (principal == Service::"gateway", action in [Action::"openSession", Action::"actFor"], resource is Agent);
@id("bot-hands-on")
permit (principal == Agent::"bot", action in [Action::"openSession", Action::"actFor"], resource == Agent::"bug");
@id("keeper-redeems")
permit (principal == Service::"keeper", action == Action::"redeem", resource == EnforcementPoint::"door");
@id("gateway-redeems")
permit (principal == Service::"gateway", action == Action::"redeem", resource);
@id("agents-redeem-at-the-door")
permit (principal is Agent, action == Action::"redeem", resource == EnforcementPoint::"door");
@id("security-stops")
permit (principal in Group::"security", action in [Action::"revoke", Action::"endSession", Action::"revokeAll"], resource);
@id("security-reviews")
permit (principal in Group::"security", action == Action::"reviewBreakGlass", resource) when { context.operation != "read" };
@id("alice-administers")
permit (principal == Person::"alice", action in [Action::"publish", Action::"readLog", Action::"readApprovals"], resource);
"#;

const GLASS: &str = r#"
@id("erin-breaks-glass")
permit (principal == Person::"erin", action == Action::"breakGlass", resource);
@id("alice-breaks-glass-to-write")
permit (principal == Person::"alice", action == Action::"breakGlass", resource)
when { context.operation == "write" && ["write-asks"].containsAll(context.rules) };
"#;

/// What the `admin` policies permit; but for breaking the glass, they are the same in every bundle.
pub mod admin {
    use super::Party;

    pub fn open_session(caller: Party, principal: Party) -> bool {
        caller == principal || act_for(caller, principal)
    }

    pub fn act_for(caller: Party, principal: Party) -> bool {
        (caller == Party::Gateway && principal.is_agent()) || (caller, principal) == (Party::Bot, Party::Bug)
    }

    pub fn redeem(caller: Party, at: Party) -> bool {
        caller == Party::Gateway || (at == Party::Door && (caller == Party::Keeper || caller.is_agent()))
    }

    pub fn stop(caller: Party) -> bool {
        matches!(caller, Party::Sam | Party::Erin)
    }

    pub fn review(caller: Party) -> bool {
        matches!(caller, Party::Sam | Party::Erin)
    }

    pub fn administer(caller: Party) -> bool {
        caller == Party::Alice
    }
}
