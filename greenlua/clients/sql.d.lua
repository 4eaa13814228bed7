---@meta greenlua.sql

---A value that a database has. NULL is `json.null` where it is given, and `nil` in a row.
---@alias greenlua.SqlValue string|number|boolean|greenlua.Null|greenlua.SqlBlob

---A string that `sql.blob` marked as bytes.
---@class greenlua.SqlBlob

---A row by column. A NULL is `nil`, and `null` in JSON and for `pairs`.
---@alias greenlua.SqlRow table<string, any>

---Statements, each committed by itself, on one connection that it has only while it runs.
---@class greenlua.SqlStatements
local statements = {}

---All rows of a statement.
---@param text string one statement; parameters are written `:name`
---@param parameters? table<string, greenlua.SqlValue> all that the statement names, and no others
---@return greenlua.SqlRow[]
function statements.query(text, parameters) end

---The first row of a statement, or nil.
---@param text string
---@param parameters? table<string, greenlua.SqlValue>
---@return greenlua.SqlRow?
function statements.one(text, parameters) end

---Runs a statement for what it does.
---@param text string
---@param parameters? table<string, greenlua.SqlValue>
---@return integer changed the number of rows
function statements.exec(text, parameters) end

---Inserts a row.
---@param target string the table's name, as the database has it; `schema.table` on PostgreSQL
---@param values table<string, greenlua.SqlValue> by column
---@return greenlua.SqlRow row with what the database filled in
function statements.insert(target, values) end

---Calls `f` in a transaction: committed when it returns, rolled back when it raises or its request ends.
---Inside of one (`tx.transaction`) it is a savepoint.
---@generic T
---@param f fun(tx: greenlua.SqlStatements): T...
---@return T... # what `f` returned
function statements.transaction(f) end

---Statements on the database of the setting `sql_url`.
---@class greenlua.Sql: greenlua.SqlStatements
local sql = {}

---Marks a string as bytes; without it one that is valid UTF-8 is bound as text.
---@param bytes string
---@return greenlua.SqlBlob
function sql.blob(bytes) end

return sql
