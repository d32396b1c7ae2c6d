//! The shape of a declaration: what a TOML file says about one agent. An unknown key is an error, and a
//! missing key means that the agent does not have what the key describes.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::value::{JsonPath, OnlyTrue, Scalar};
use crate::task::SignalScope;

/// One agent, in one file named like it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The version of this shape: 1.
    pub schema: u32,
    /// The value of `agent_type`.
    pub name: String,
    /// The version of the agent against which the declaration was checked.
    pub checked: Option<String>,
    /// The service that runs the model.
    pub provider: Option<String>,
    /// Base names of its program; without the key, its name.
    pub programs: Option<Vec<String>>,
    /// Base names that other programs have too: they count only with `--agent-type`.
    #[serde(default)]
    pub common_programs: Vec<String>,
    /// npm packages that contain it, as an argument of npx and similar programs.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Words of which one may come first and changes nothing: the arguments follow it.
    #[serde(default)]
    pub optional_words: Vec<String>,
    #[serde(default)]
    pub options: OptionRules,
    #[serde(default)]
    pub print: PrintRules,
    #[serde(default)]
    pub input: InputRules,
    #[serde(default)]
    pub no_conversation: NoConversationRules,
    #[serde(default)]
    pub output: OutputRules,
    pub session: Option<SessionRules>,
    #[serde(default)]
    pub skills: SkillRules,
    #[serde(default)]
    pub process: ProcessRules,
    #[serde(default)]
    pub exits: ExitRules,
    /// Rules that read the events of the output, each in the order of the file.
    #[serde(default)]
    pub event: Vec<EventRule>,
}

/// How the words of the command line are read. An option in no list takes no value.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptionRules {
    /// Options that always take the next word as their value.
    pub one: Vec<String>,
    /// Options that take the next word unless it looks like an option.
    pub maybe: Vec<String>,
    /// Options that take all words up to the next option.
    pub many: Vec<String>,
    /// Options whose value is the model.
    pub model: Vec<String>,
    /// Options whose value is the directory in which the agent works.
    pub cwd: Vec<String>,
}

/// When the agent runs without asking: its output is then the answer, or its events.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrintRules {
    /// The first operand is one of these words (a subcommand).
    pub words: Vec<String>,
    /// One of these options is given.
    pub options: Vec<String>,
    /// A prompt among the operands is enough.
    pub operand: Option<OnlyTrue>,
    /// A stdout that is not a terminal is enough.
    pub piped: Option<OnlyTrue>,
    /// With one of these options it asks all the same.
    pub interactive: Vec<String>,
}

/// When further prompts come on stdin, each with its own result.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputRules {
    /// Options whose value selects it.
    pub options: Vec<String>,
    /// Values that select one JSON prompt per line.
    pub stream: Vec<String>,
}

/// When the process holds no conversation.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoConversationRules {
    /// The first operand is one of these words.
    pub words: Vec<String>,
    /// One of these options is given.
    pub options: Vec<String>,
}

/// How the output mode is selected in print mode. Without a match the output is text.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputRules {
    /// Options whose value selects the mode.
    pub options: Vec<String>,
    /// Values that select one JSON object, or one array, at the end.
    pub json: Vec<String>,
    /// Values that select one JSON event per line.
    pub stream: Vec<String>,
    /// Options without a value that select one JSON event per line.
    pub stream_options: Vec<String>,
}

/// How the agent names, resumes and stores its conversations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRules {
    /// How the id of a new conversation is set; without it the agent chooses the id.
    pub assign: Option<SessionWords>,
    /// How a conversation is resumed.
    pub resume: SessionWords,
    /// What the user's own words ask for.
    #[serde(default)]
    pub given: GivenRules,
    pub transcript: Option<TranscriptRules>,
}

/// The words that bookend adds, which hold the session id. They never follow `--`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionWords {
    /// An option whose value is the id, or a word that the id follows.
    pub word: String,
    /// The id is joined to the option with `=`.
    pub joined: Option<OnlyTrue>,
    pub place: WordPlace,
}

/// Where words are added to the agent's own arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WordPlace {
    /// Before all arguments.
    Front,
    /// After the word of `print.words`.
    AfterWord,
    /// After the word of `print.words` and all options, which are moved there from behind the operands. An
    /// option that takes all words up to the next option stays behind them.
    BeforeOperands,
}

/// The user's own words that mean a session. Without them bookend chooses it. A word counts as the first
/// operand, or as the next one after the word of `print.words`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GivenRules {
    /// Options that resume the conversation named by their value; without a value, one from a list.
    pub resume: Vec<String>,
    /// Words that resume the conversation named by the next operand; without one, one from a list.
    pub resume_words: Vec<String>,
    /// Options that resume the most recent conversation.
    #[serde(rename = "continue")]
    pub continues: Vec<String>,
    /// Words that resume the most recent conversation.
    pub continue_words: Vec<String>,
    /// Values of an option in `resume` that mean the most recent conversation.
    pub continue_values: Vec<String>,
    /// Options whose value is the id of the new conversation.
    pub assign: Vec<String>,
    /// Options that make a resumed conversation a copy.
    pub fork: Vec<String>,
    /// Words that copy the conversation named by the next operand; without one, one from a list.
    pub fork_words: Vec<String>,
    /// Options with which the conversation is not saved.
    pub not_kept: Vec<String>,
    /// Options that select a conversation in another way, to which no session can be added.
    pub other: Vec<String>,
    /// Words that select a conversation in another way, to which no session can be added.
    pub other_words: Vec<String>,
}

/// Where the agent stores a conversation: a file, or a folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranscriptRules {
    /// An environment variable that names the agent's folder.
    pub variable: Option<String>,
    /// The agent's folder below the home directory, unless the variable is set.
    pub home: String,
    /// The steps from there to the conversation.
    pub path: Vec<PathStep>,
}

/// One step of a path.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PathStep {
    /// The entry of this name.
    Name(String),
    /// Any folder.
    Any {},
    /// The folder named like the agent's working directory.
    Cwd(CwdForm),
    /// An entry whose name contains the session id.
    Id {
        part: Option<IdPart>,
        /// The name begins with this text, which other text may follow.
        begins: Option<String>,
        /// The name ends with the id and this text.
        ends: Option<String>,
    },
}

/// How a folder is named after a working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CwdForm {
    /// Each character that is neither a letter nor a digit is a `-`.
    Dashed,
}

/// The part of a session id that a name contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdPart {
    /// Its first eight characters.
    #[serde(rename = "first-8")]
    First8,
}

/// Where the agent looks for skills.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SkillRules {
    /// Folders below the working directory and each of its parents.
    pub above: Vec<String>,
    /// Folders below the home directory.
    pub home: Vec<String>,
    /// Options whose values are further directories, with the folders of `above`.
    pub options: Vec<String>,
}

/// The agent's processes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessRules {
    pub signal: SignalScope,
}

/// What exit codes say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExitRules {
    /// The agent finished.
    pub ok: Vec<u8>,
    /// The agent reported an error.
    pub error: Vec<u8>,
}

impl Default for ExitRules {
    fn default() -> ExitRules {
        ExitRules { ok: vec![0], error: Vec::new() }
    }
}

/// What one kind of event says. All rules that match an event apply, in their order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRule {
    /// The event matches if each of these paths has one of its values.
    #[serde(default)]
    pub on: BTreeMap<JsonPath, Vec<Scalar>>,
    /// The event does not match if one of these paths has one of its values.
    #[serde(default)]
    pub unless: BTreeMap<JsonPath, Vec<Scalar>>,
    /// The event matches only if it has a value other than null at all of these paths.
    #[serde(default)]
    pub has: Vec<JsonPath>,
    /// The event does not match if it has a value other than null at one of these paths.
    #[serde(default)]
    pub lacks: Vec<JsonPath>,
    /// The rest of the rule is about each element of the array, or each value of the object, at this path.
    pub each: Option<EachRule>,
    pub session: Option<JsonPath>,
    pub model: Option<JsonPath>,
    /// A turn begins: a result that came before is not the last one.
    pub opens_turn: Option<OnlyTrue>,
    /// The number of turns that it adds.
    pub turns: Option<u32>,
    /// The number of turns of this run so far. It replaces those that were added.
    pub turns_so_far: Option<JsonPath>,
    pub tool_opens: Option<ToolRule>,
    pub tool_closes: Option<ToolEndRule>,
    pub usage: Option<UsageRule>,
    pub cost: Option<CostRule>,
    /// An event has one result: that of its last rule.
    pub result: Option<ResultKind>,
    /// The text of an error. Without a result it is a warning, or belongs to an error that comes later.
    pub error: Option<JsonPath>,
    /// No later result replaces this one.
    pub sticky: Option<OnlyTrue>,
}

/// The elements to which a rule applies, instead of the whole event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EachRule {
    #[serde(rename = "in")]
    pub within: JsonPath,
    /// An element matches if each of these paths in it has one of its values.
    #[serde(default)]
    pub on: BTreeMap<JsonPath, Vec<Scalar>>,
}

/// The start of a tool call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolRule {
    pub id: JsonPath,
    /// The path of the tool's name.
    pub name: Option<JsonPath>,
    /// The path of an object whose one key is the tool's name.
    pub name_of_key: Option<JsonPath>,
    /// A text at the end of the name that is left out.
    pub without: Option<String>,
}

/// The end of a tool call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolEndRule {
    pub id: JsonPath,
}

/// Token counts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRule {
    pub scope: UsageScope,
    pub input: Option<JsonPath>,
    pub output: Option<JsonPath>,
    pub cache_read: Option<JsonPath>,
    pub cache_write: Option<JsonPath>,
    /// The input count includes the tokens that were read from the cache.
    pub input_includes_cache: Option<OnlyTrue>,
}

/// A cost in US dollars.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostRule {
    pub scope: UsageScope,
    pub usd: JsonPath,
}

/// What a reported figure covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsageScope {
    /// This step: it is added to what came before.
    Step,
    /// This run so far: it replaces what came before.
    Run,
    /// All runs of the session so far, those of the session that a fork copied too.
    Session,
}

/// The outcome that an event reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultKind {
    Ok,
    Error,
}
