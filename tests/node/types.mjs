// Writes the TypeScript types of an OpenAPI document, with `Blob` for files. Arguments: the document, the target.
import fs from "node:fs";
import { pathToFileURL } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const [document, target] = process.argv.slice(2);
const BLOB = ts.factory.createTypeReferenceNode(ts.factory.createIdentifier("Blob"));
const types = await openapiTS(pathToFileURL(document), {
  defaultNonNullable: false,
  transform: (schema) => (schema.format === "binary" ? BLOB : undefined),
});
fs.writeFileSync(target, astToString(types));
