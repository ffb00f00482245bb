import { doctor, doctorRows } from "../../engine/doctor.ts";
import { defineCommand } from "../command.ts";
import { printColumns } from "../help.ts";

export const doctorCommand = defineCommand({
  verb: doctor,
  summary: "what this machine can compute on, and how to mend what is missing",
  print: (result) => printColumns(doctorRows(result), 120),
});
